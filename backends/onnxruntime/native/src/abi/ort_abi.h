// The small part of ONNX Runtime's binary interface that custom operators need.
//
// No PyPI wheel ships ONNX Runtime's C header, so this file states the facts we rely on
// instead of asking every user to find one. They are facts about a binary interface, all
// of them frozen by ONNX Runtime's own compatibility promise:
//
//   * OrtApi is a table of function pointers. It only grows at its end, so a function keeps
//     its slot for ever. The slots we call are listed in ort_abi_slots.inc.
//   * OrtCustomOp starts with a version number and only grows at its end. ONNX Runtime does
//     not read past the members which that version had. We declare version 17.
//   * Enumerators keep their numeric values.
//
// tests/native/verify_ort_abi.cc proves all of it at compile time against an official header.
// Names match that header, so they can be searched for in ONNX Runtime's documentation;
// the namespace lets the verifier include both.

#pragma once

#include <cstddef>
#include <cstdint>

namespace ort_abi {

// The table version we request. 24 is the first with GetTensorElementTypeAndShapeDataReference; every release from
// ONNX Runtime 1.24 on accepts it.
inline constexpr uint32_t kApiVersion = 24;

// OrtCustomOp::version.
inline constexpr uint32_t kCustomOpVersion = 17;

// Objects that ONNX Runtime owns; we only ever hold pointers to them.
struct OrtCustomOpDomain;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtSessionOptions;
struct OrtShapeInferContext;
struct OrtStatus;  // nullptr means success
struct OrtValue;
struct OrtCustomOp;

enum OrtErrorCode : int {
  ORT_FAIL = 1,
  ORT_INVALID_ARGUMENT = 2,
  ORT_RUNTIME_EXCEPTION = 6,
  ORT_NOT_IMPLEMENTED = 9,
};

enum ONNXTensorElementDataType : int {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED = 0,  // as a declared port type: "any type"
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 = 3,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 = 6,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 = 10,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 = 16,
};

enum OrtCustomOpInputOutputCharacteristic : int {
  INPUT_OUTPUT_REQUIRED = 0,
  INPUT_OUTPUT_OPTIONAL = 1,
  INPUT_OUTPUT_VARIADIC = 2,
};

enum OrtMemType : int {
  OrtMemTypeDefault = 0,
};

// The function table. `api->CreateStatus(code, text)` reads and calls slot 0.
struct OrtApi {
#define ORT_SLOT(slot, result, name, parameters)                    \
  template <class... Args>                                          \
  result name(Args... args) const {                                 \
    return reinterpret_cast<result(*) parameters>(slots[slot])(args...); \
  }
#include "ort_abi_slots.inc"
#undef ORT_SLOT

  using Function = void (*)();
  Function slots[1];  // really some hundreds; how many depends on the release
};

// What ONNX Runtime hands to RegisterCustomOps. GetApi returns nullptr when the running
// release is older than the version asked for.
struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// One operator, described by callbacks. Layout of version 17.
struct OrtCustomOp {
  uint32_t version;

  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);  // unused: V2 below
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  ONNXTensorElementDataType (*GetInputType)(const OrtCustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  ONNXTensorElementDataType (*GetOutputType)(const OrtCustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);  // unused: V2 below
  void (*KernelDestroy)(void* kernel);
  OrtCustomOpInputOutputCharacteristic (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  OrtCustomOpInputOutputCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  OrtMemType (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);

  // Since version 16: the forms that can report an error.
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);

  // Since version 17.
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);  // may be nullptr
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
};

}  // namespace ort_abi
