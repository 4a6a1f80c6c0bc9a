"""The whole way of a model to its bundles: passes, kernels, emission, checks, toolchains, bundle."""
