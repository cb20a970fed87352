// Compile-time proof that backends/onnxruntime/native/src/abi/ort_abi.h agrees with an official header.
// Not part of any build. Needs onnxruntime_c_api.h, for example from Debian's libonnxruntime-dev:
//
//   c++ -std=c++17 -fsyntax-only -Wno-ignored-attributes -I <folder of onnxruntime_c_api.h>
//       -I backends/onnxruntime/native/src/abi tests/native/verify_ort_abi.cc
//
// It compiles, or the error names the fact that is wrong.

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <type_traits>

#include "ort_abi.h"

// Slots: index and signature, read with the official types. (is_convertible, not is_same, because
// the official pointers are noexcept.)
#define ORT_SLOT(slot, result, name, parameters)                                             \
  static_assert(offsetof(OrtApi, name) == slot * sizeof(void*), #name ": wrong slot");       \
  static_assert(std::is_convertible_v<decltype(OrtApi::name), result(*) parameters>, #name ": wrong type");
#include "ort_abi_slots.inc"
#undef ORT_SLOT

// Layouts. Ours may be a prefix, so compare members rather than sizes.
#define SAME_MEMBER(type, name)                                                              \
  static_assert(offsetof(type, name) == offsetof(ort_abi::type, name), #type "::" #name);    \
  static_assert(sizeof(type::name) == sizeof(ort_abi::type::name), #type "::" #name);
SAME_MEMBER(OrtApiBase, GetApi)
SAME_MEMBER(OrtApiBase, GetVersionString)
SAME_MEMBER(OrtCustomOp, version)
SAME_MEMBER(OrtCustomOp, CreateKernel)
SAME_MEMBER(OrtCustomOp, GetName)
SAME_MEMBER(OrtCustomOp, GetExecutionProviderType)
SAME_MEMBER(OrtCustomOp, GetInputType)
SAME_MEMBER(OrtCustomOp, GetInputTypeCount)
SAME_MEMBER(OrtCustomOp, GetOutputType)
SAME_MEMBER(OrtCustomOp, GetOutputTypeCount)
SAME_MEMBER(OrtCustomOp, KernelCompute)
SAME_MEMBER(OrtCustomOp, KernelDestroy)
SAME_MEMBER(OrtCustomOp, GetInputCharacteristic)
SAME_MEMBER(OrtCustomOp, GetOutputCharacteristic)
SAME_MEMBER(OrtCustomOp, GetInputMemoryType)
SAME_MEMBER(OrtCustomOp, GetVariadicInputMinArity)
SAME_MEMBER(OrtCustomOp, GetVariadicInputHomogeneity)
SAME_MEMBER(OrtCustomOp, GetVariadicOutputMinArity)
SAME_MEMBER(OrtCustomOp, GetVariadicOutputHomogeneity)
SAME_MEMBER(OrtCustomOp, CreateKernelV2)
SAME_MEMBER(OrtCustomOp, KernelComputeV2)
SAME_MEMBER(OrtCustomOp, InferOutputShapeFn)
SAME_MEMBER(OrtCustomOp, GetStartVersion)
SAME_MEMBER(OrtCustomOp, GetEndVersion)

// Enumerators: value and storage.
#define SAME_VALUE(type, name)                                                               \
  static_assert(static_cast<int>(::name) == static_cast<int>(ort_abi::name), #name);         \
  static_assert(sizeof(::type) == sizeof(ort_abi::type), #type);
SAME_VALUE(OrtErrorCode, ORT_FAIL)
SAME_VALUE(OrtErrorCode, ORT_INVALID_ARGUMENT)
SAME_VALUE(OrtErrorCode, ORT_RUNTIME_EXCEPTION)
SAME_VALUE(OrtErrorCode, ORT_NOT_IMPLEMENTED)
SAME_VALUE(ONNXTensorElementDataType, ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED)
SAME_VALUE(ONNXTensorElementDataType, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
SAME_VALUE(ONNXTensorElementDataType, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8)
SAME_VALUE(ONNXTensorElementDataType, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8)
SAME_VALUE(ONNXTensorElementDataType, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32)
SAME_VALUE(ONNXTensorElementDataType, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)
SAME_VALUE(ONNXTensorElementDataType, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16)
SAME_VALUE(ONNXTensorElementDataType, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16)
SAME_VALUE(OrtCustomOpInputOutputCharacteristic, INPUT_OUTPUT_REQUIRED)
SAME_VALUE(OrtCustomOpInputOutputCharacteristic, INPUT_OUTPUT_OPTIONAL)
SAME_VALUE(OrtCustomOpInputOutputCharacteristic, INPUT_OUTPUT_VARIADIC)
SAME_VALUE(OrtMemType, OrtMemTypeDefault)
