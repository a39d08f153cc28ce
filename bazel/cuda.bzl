"""cuda_library: objects by nvcc under --config=cuda, an empty library otherwise."""

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
