"""Bundles for other servers, hubs and registries, and sync of adapters to live servers; the core works without this folder."""

from fusery.registry.bundles.target import Target

TARGETS = (
    Target(
        "vllm", "fusery.integrations.vllm", ("adapters", "fused"), form="peft", base=False, tokenizer=True
    ),
    Target("k8s", "fusery.integrations.k8s", ("adapters",), form="peft", base=False, located=True),
    Target("ollama", "fusery.integrations.gguf.ollama", ("fused", "adapters"), form="peft"),
    Target("llamacpp", "fusery.integrations.gguf.llamacpp", ("adapters", "fused"), form="peft"),
    Target("gguf", "fusery.integrations.gguf.bundles"),
    Target("onnx", "fusery.integrations.onnx"),
    Target("oci", "fusery.integrations.oci"),
    Target(
        "hub",
        "fusery.integrations.hub",
        ("fused", "adapters"),
        form="peft",
        base=False,
        whole=True,
        tokenizer=True,
        service=("hf", "integrations.hub:HubPlace"),
    ),
)
