"""CUDA sources: objects by nvcc under --config=cuda; kernels are emulated on the CPU otherwise."""

# Without --config=cuda the libraries are empty, so what links them is left out of wildcard builds: it demands
# a constraint that no platform has.
CUDA_ONLY = select({
    "//bazel:cuda": [],
    "//conditions:default": ["//bazel:nothing"],
})

_ARCHS = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_80,code=compute_80",
]

def cuda_library(name, srcs, hdrs = [], deps = [], linkopts = [], visibility = None):
    """Compiles .cu files for sm_80, sm_90a and PTX with warnings as errors.

    Args:
      name: the cc_library.
      srcs: .cu files.
      hdrs: headers they include, visible to dependents.
      deps: cc_library dependencies of the host side; their headers must be listed in `hdrs` of a
        cuda_library or be reachable from the workspace root.
      linkopts: further ones under --config=cuda.
      visibility: as usual.
    """
    objs = []
    for s in srcs:
        out = s[:-len(".cu")] + ".cu.o"
        native.genrule(
            name = s.replace(".", "_").replace("/", "_") + "_o",
            srcs = [s] + hdrs,
            outs = [out],
            local = True,
            target_compatible_with = CUDA_ONLY,
            cmd = "$${NVCC:-/usr/local/cuda/bin/nvcc} -std=c++20 -O3 -Werror all-warnings -Xcompiler -fPIC %s -I. -c $(location %s) -o $@" % (" ".join(_ARCHS), s),
            visibility = ["//visibility:private"],
        )
        objs.append(out)
    native.cc_library(
        name = name,
        hdrs = hdrs,
        srcs = select({"//bazel:cuda": objs, "//conditions:default": []}),
        linkopts = select({
            "//bazel:cuda": linkopts + ["-L/usr/local/cuda/lib64", "-lcudart_static", "-ldl", "-lrt", "-lpthread"],
            "//conditions:default": [],
        }),
        deps = deps,
        visibility = visibility,
    )

_FLAGS = "-std=c++20 -O3 -Werror all-warnings -Xcompiler -fPIC -fmad=false -ftz=true -prec-div=true -prec-sqrt=true"
_HOPPER = ["-gencode=arch=compute_90a,code=sm_90a"]

def cuda_kernels(name, srcs, hdrs = [], deps = [], headers = [], hopper = False, visibility = None):
    """Kernels in the language of kernels/cuda/device: for a card, or for the emulator on the CPU.

    Args:
      name: the cc_library; which of the two is in it follows from --config=cuda.
      srcs: .cu files.
      hdrs: their headers.
      deps: cuda_kernels and cc_library dependencies.
      headers: of those, for nvcc: files or filegroups.
      hopper: they use what only compute capability 9.0 has, and are compiled for it alone.
      visibility: as usual.
    """
    objs = []
    emulated = []
    for s in srcs:
        base = s.replace(".", "_").replace("/", "_")
        native.genrule(
            name = base + "_o",
            srcs = [s] + hdrs + headers + ["//kernels/cuda/device:headers"],
            outs = [s + ".o"],
            local = True,
            target_compatible_with = CUDA_ONLY,
            cmd = "$${NVCC:-/usr/local/cuda/bin/nvcc} %s %s -I. -c $(location %s) -o $@" % (_FLAGS, " ".join(_HOPPER if hopper else _ARCHS), s),
            visibility = ["//visibility:private"],
        )
        objs.append(s + ".o")
        native.genrule(
            name = base + "_emulated",
            srcs = [s],
            outs = [base + "_emulated.cc"],
            cmd = "echo '#include \"%s/%s\"' > $@" % (native.package_name(), s),
            visibility = ["//visibility:private"],
        )
        emulated.append(base + "_emulated.cc")
    native.cc_library(
        name = name,
        hdrs = hdrs,
        srcs = select({"//bazel:cuda": objs, "//conditions:default": emulated}),
        textual_hdrs = srcs,
        copts = ["-ffp-contract=off"],
        linkopts = select({
            "//bazel:cuda": ["-L/usr/local/cuda/lib64", "-lcudart_static", "-ldl", "-lrt", "-lpthread"],
            "//conditions:default": [],
        }),
        deps = deps + ["//kernels/cuda/device"],
        visibility = visibility,
    )
