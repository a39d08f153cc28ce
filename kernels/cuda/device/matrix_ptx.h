// The instructions of matrix.h, one specialisation a width: wgmma.mma_async of 64 x n x 16, bf16
// into f32 (PTX ISA 8.7, section 9.7.15.5). Included by matrix.h under nvcc only. Its operands can
// only be written out, so each width lists its registers.
#ifndef REPRISE_KERNELS_CUDA_DEVICE_MATRIX_PTX_H_
#define REPRISE_KERNELS_CUDA_DEVICE_MATRIX_PTX_H_

#include "kernels/cuda/device/device.h"

namespace reprise::cuda::ptx {

// a from shared memory (kAMajor, kBMajor: 0 k-major, 1 mn-major), or from registers.
template <int kN, int kAMajor, int kBMajor>
struct Wgmma;

// clang-format off
#define REPRISE_R0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define REPRISE_R1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define REPRISE_R2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define REPRISE_R3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define REPRISE_R4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define REPRISE_R5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define REPRISE_R6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define REPRISE_R7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define REPRISE_R8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define REPRISE_R9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define REPRISE_R10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define REPRISE_R11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define REPRISE_R12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define REPRISE_R13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define REPRISE_R14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define REPRISE_R15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define REPRISE_D0 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define REPRISE_D1 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define REPRISE_D2 "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define REPRISE_D3 "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define REPRISE_D4 "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define REPRISE_D5 "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define REPRISE_D6 "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define REPRISE_D7 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define REPRISE_D8 "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define REPRISE_D9 "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define REPRISE_D10 "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define REPRISE_D11 "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define REPRISE_D12 "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define REPRISE_D13 "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define REPRISE_D14 "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define REPRISE_D15 "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

template <int kAMajor, int kBMajor>
struct Wgmma<8, kAMajor, kBMajor> {
  static REPRISE_DEVICE void Shared(float (&d)[4], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3"
                 "}, %4, %5, p, 1, 1, %7, %8;\n}\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "l"(a), "l"(b), "r"(accumulate), "n"(kAMajor), "n"(kBMajor));
  }
  static REPRISE_DEVICE void Registers(float (&d)[4], const uint32_t (&a)[4], uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %9, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3"
                 "}, {%4, %5, %6, %7}, %8, p, 1, 1, %10;\n}\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kBMajor));
  }
};

template <int kAMajor, int kBMajor>
struct Wgmma<16, kAMajor, kBMajor> {
  static REPRISE_DEVICE void Shared(float (&d)[8], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
                 REPRISE_R0
                 "}, %8, %9, p, 1, 1, %11, %12;\n}\n"
                 : REPRISE_D0
                 : "l"(a), "l"(b), "r"(accumulate), "n"(kAMajor), "n"(kBMajor));
  }
  static REPRISE_DEVICE void Registers(float (&d)[8], const uint32_t (&a)[4], uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %13, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
                 REPRISE_R0
                 "}, {%8, %9, %10, %11}, %12, p, 1, 1, %14;\n}\n"
                 : REPRISE_D0
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kBMajor));
  }
};

template <int kAMajor, int kBMajor>
struct Wgmma<32, kAMajor, kBMajor> {
  static REPRISE_DEVICE void Shared(float (&d)[16], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
                 REPRISE_R0 ", " REPRISE_R1
                 "}, %16, %17, p, 1, 1, %19, %20;\n}\n"
                 : REPRISE_D0, REPRISE_D1
                 : "l"(a), "l"(b), "r"(accumulate), "n"(kAMajor), "n"(kBMajor));
  }
  static REPRISE_DEVICE void Registers(float (&d)[16], const uint32_t (&a)[4], uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
                 REPRISE_R0 ", " REPRISE_R1
                 "}, {%16, %17, %18, %19}, %20, p, 1, 1, %22;\n}\n"
                 : REPRISE_D0, REPRISE_D1
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kBMajor));
  }
};

template <int kAMajor, int kBMajor>
struct Wgmma<64, kAMajor, kBMajor> {
  static REPRISE_DEVICE void Shared(float (&d)[32], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 REPRISE_R0 ", " REPRISE_R1 ", " REPRISE_R2 ", " REPRISE_R3
                 "}, %32, %33, p, 1, 1, %35, %36;\n}\n"
                 : REPRISE_D0, REPRISE_D1, REPRISE_D2, REPRISE_D3
                 : "l"(a), "l"(b), "r"(accumulate), "n"(kAMajor), "n"(kBMajor));
  }
  static REPRISE_DEVICE void Registers(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 REPRISE_R0 ", " REPRISE_R1 ", " REPRISE_R2 ", " REPRISE_R3
                 "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
                 : REPRISE_D0, REPRISE_D1, REPRISE_D2, REPRISE_D3
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kBMajor));
  }
};

template <int kAMajor, int kBMajor>
struct Wgmma<128, kAMajor, kBMajor> {
  static REPRISE_DEVICE void Shared(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 REPRISE_R0 ", " REPRISE_R1 ", " REPRISE_R2 ", " REPRISE_R3 ", " REPRISE_R4 ", " REPRISE_R5 ", " REPRISE_R6 ", " REPRISE_R7
                 "}, %64, %65, p, 1, 1, %67, %68;\n}\n"
                 : REPRISE_D0, REPRISE_D1, REPRISE_D2, REPRISE_D3, REPRISE_D4, REPRISE_D5, REPRISE_D6, REPRISE_D7
                 : "l"(a), "l"(b), "r"(accumulate), "n"(kAMajor), "n"(kBMajor));
  }
  static REPRISE_DEVICE void Registers(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 REPRISE_R0 ", " REPRISE_R1 ", " REPRISE_R2 ", " REPRISE_R3 ", " REPRISE_R4 ", " REPRISE_R5 ", " REPRISE_R6 ", " REPRISE_R7
                 "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"
                 : REPRISE_D0, REPRISE_D1, REPRISE_D2, REPRISE_D3, REPRISE_D4, REPRISE_D5, REPRISE_D6, REPRISE_D7
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kBMajor));
  }
};

template <int kAMajor, int kBMajor>
struct Wgmma<256, kAMajor, kBMajor> {
  static REPRISE_DEVICE void Shared(float (&d)[128], uint64_t a, uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
                 REPRISE_R0 ", " REPRISE_R1 ", " REPRISE_R2 ", " REPRISE_R3 ", " REPRISE_R4 ", " REPRISE_R5 ", " REPRISE_R6 ", " REPRISE_R7 ", " REPRISE_R8 ", " REPRISE_R9 ", " REPRISE_R10 ", " REPRISE_R11 ", " REPRISE_R12 ", " REPRISE_R13 ", " REPRISE_R14 ", " REPRISE_R15
                 "}, %128, %129, p, 1, 1, %131, %132;\n}\n"
                 : REPRISE_D0, REPRISE_D1, REPRISE_D2, REPRISE_D3, REPRISE_D4, REPRISE_D5, REPRISE_D6, REPRISE_D7, REPRISE_D8, REPRISE_D9, REPRISE_D10, REPRISE_D11, REPRISE_D12, REPRISE_D13, REPRISE_D14, REPRISE_D15
                 : "l"(a), "l"(b), "r"(accumulate), "n"(kAMajor), "n"(kBMajor));
  }
  static REPRISE_DEVICE void Registers(float (&d)[128], const uint32_t (&a)[4], uint64_t b, int accumulate) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %133, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
                 REPRISE_R0 ", " REPRISE_R1 ", " REPRISE_R2 ", " REPRISE_R3 ", " REPRISE_R4 ", " REPRISE_R5 ", " REPRISE_R6 ", " REPRISE_R7 ", " REPRISE_R8 ", " REPRISE_R9 ", " REPRISE_R10 ", " REPRISE_R11 ", " REPRISE_R12 ", " REPRISE_R13 ", " REPRISE_R14 ", " REPRISE_R15
                 "}, {%128, %129, %130, %131}, %132, p, 1, 1, %134;\n}\n"
                 : REPRISE_D0, REPRISE_D1, REPRISE_D2, REPRISE_D3, REPRISE_D4, REPRISE_D5, REPRISE_D6, REPRISE_D7, REPRISE_D8, REPRISE_D9, REPRISE_D10, REPRISE_D11, REPRISE_D12, REPRISE_D13, REPRISE_D14, REPRISE_D15
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kBMajor));
  }
};

#undef REPRISE_R0
#undef REPRISE_D0
#undef REPRISE_R1
#undef REPRISE_D1
#undef REPRISE_R2
#undef REPRISE_D2
#undef REPRISE_R3
#undef REPRISE_D3
#undef REPRISE_R4
#undef REPRISE_D4
#undef REPRISE_R5
#undef REPRISE_D5
#undef REPRISE_R6
#undef REPRISE_D6
#undef REPRISE_R7
#undef REPRISE_D7
#undef REPRISE_R8
#undef REPRISE_D8
#undef REPRISE_R9
#undef REPRISE_D9
#undef REPRISE_R10
#undef REPRISE_D10
#undef REPRISE_R11
#undef REPRISE_D11
#undef REPRISE_R12
#undef REPRISE_D12
#undef REPRISE_R13
#undef REPRISE_D13
#undef REPRISE_R14
#undef REPRISE_D14
#undef REPRISE_R15
#undef REPRISE_D15
// clang-format on

}  // namespace reprise::cuda::ptx

#endif  // REPRISE_KERNELS_CUDA_DEVICE_MATRIX_PTX_H_
