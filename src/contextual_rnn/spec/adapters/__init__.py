"""Networks of other packages, each registered when a network of its package is first looked up."""

# Packages by the name that is imported, and the module here that registers their networks.
_PACKAGES = ("fla", "ncps", "norse", "s5", "snntorch", "torchrecurrent", "torchrl", "xlstm")
ADAPTERS = {"minGRU_pytorch": f"{__name__}.mingru", **{name: f"{__name__}.{name}" for name in _PACKAGES}}
