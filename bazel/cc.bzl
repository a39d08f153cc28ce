"""Our C++ test and fuzz macros."""

def cc_unit_test(name, deps = [], **kwargs):
    """A GoogleTest binary with its own main; source defaults to NAME.cc."""
    native.cc_test(
        name = name,
        srcs = kwargs.pop("srcs", [name + ".cc"]),
        deps = deps + ["//bazel/system:gtest"],
        data = kwargs.pop("data", []) + select({"//bazel:tsan": ["//bazel:tsan.supp"], "//conditions:default": []}),
        **kwargs
    )

def cc_fuzz_target(name, deps = [], corpus = None, **kwargs):
    """A libFuzzer target (--config=fuzz); otherwise the same entry point replays files given to it.

    The source defaults to NAME.cc and defines LLVMFuzzerTestOneInput. `corpus` is a filegroup of seeds.
    """
    native.cc_binary(
        name = name,
        testonly = True,
        srcs = kwargs.pop("srcs", [name + ".cc"]),
        deps = deps + select({"//bazel:fuzz": [], "//conditions:default": ["//tests/fuzz:replay_main"]}),
        linkopts = select({"//bazel:fuzz": ["-fsanitize=fuzzer"], "//conditions:default": []}),
        data = [corpus] if corpus else [],
        tags = ["fuzz"],
        visibility = ["//tests/fuzz:__pkg__"],
        **kwargs
    )
