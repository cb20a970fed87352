// The library's entry points: one for ONNX Runtime, the others for Python's ctypes.

#include <initializer_list>

#include "abi/ort_op.h"
#include "cpu.h"

#define OPTCC_EXPORT extern "C" __attribute__((visibility("default")))

namespace optcc {

// One function per operator, each in its folder.
const OrtCustomOp* paged_attention();
const OrtCustomOp* quantized_embedding_op();
const OrtCustomOp* quantized_linear_op();
const OrtCustomOp* quantized_linears_op();

namespace {

using Make = const OrtCustomOp* (*)();
const std::initializer_list<Make> kOperators = {paged_attention, quantized_linear_op, quantized_linears_op, quantized_embedding_op};

}  // namespace
}  // namespace optcc

// Called by SessionOptions.register_custom_ops_library, once per SessionOptions.
OPTCC_EXPORT ort_abi::OrtStatus* RegisterCustomOps(ort_abi::OrtSessionOptions* options,
                                                   const ort_abi::OrtApiBase* base) {
  using namespace optcc;
  api = base->GetApi(kApiVersion);
  if (api == nullptr) {
    // Too old for kApiVersion, but slot 0 (CreateStatus) has been there since version 1.
    return base->GetApi(1)->CreateStatus(ORT_NOT_IMPLEMENTED,
                                         "optcc's operators need ONNX Runtime 1.24 or newer");
  }
  return guarded("optcc", ORT_FAIL, [&] {
    isa();  // refuses an OPTCC_ISA that this machine lacks
    static OrtCustomOpDomain* domain = [] {  // shared by all sessions, never released
      OrtCustomOpDomain* made = nullptr;
      check(api->CreateCustomOpDomain("optcc", &made));
      for (const Make make : kOperators) check(api->CustomOpDomain_Add(made, make()));
      return made;
    }();
    check(api->AddCustomOpDomain(options, domain));
  });
}

// The instruction set in use, or an empty text when OPTCC_ISA names one that can't be used.
OPTCC_EXPORT const char* optcc_isa() {
  try {
    return optcc::isa_name(optcc::isa());
  } catch (const std::exception&) {
    return "";
  }
}

// Whether the set number `index` of enum Isa can be used here, and its name; nullptr behind the last one.
OPTCC_EXPORT const char* optcc_isa_at(int index, int* usable) {
  using namespace optcc;
  if (index < 0 || index >= static_cast<int>(Isa::kCount)) return nullptr;
  *usable = isa_usable(static_cast<Isa>(index));
  return isa_name(static_cast<Isa>(index));
}

// Sessions made from now on use this set ("" or null: the best). Returns null, or why it can't be used.
OPTCC_EXPORT const char* optcc_choose_isa(const char* name) { return optcc::choose_isa(name); }
