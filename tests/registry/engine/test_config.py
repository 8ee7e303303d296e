from __future__ import annotations

from fusery.registry.engine.config import copied_names, has_vision, weight_names

COPIED = [
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "tokenizer.model.v3.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/rag.jinja", "qwen.tiktoken"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "generation_config.json"),
    *("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"),
    *("LICENSE.txt", "NOTICE"),
]
LEFT = [
    *("config.json", "README.md", "model.safetensors", "model.safetensors.index.json", "training_args.bin"),
    *("tokenizer.py", "tokenizer_config.json.py", "vocab.py", "LICENSE.py", "LICENSE.sh", "modeling_x.py"),
    *(
        "../tokenizer.json",
        "a/tokenizer.json",
        "additional_chat_templates/../x.jinja",
        "tokenizer.json\n",
        "",
    ),
]


def test_copied_files() -> None:
    assert copied_names(COPIED + LEFT) == sorted(COPIED)
    weights = ["model-00001-of-00002.safetensors", "model.safetensors"]  # what mlx-lm globs
    assert weight_names([*weights, "consolidated.safetensors", "adapters.safetensors"]) == weights


TOWERS = [
    # transformers 5 in memory, and as it and mlx-vlm save them: llava, paligemma, gemma3, mistral3, internvl
    *("model.vision_tower.encoder.layers.0.fc1.weight", "multi_modal_projector.mm_input_projection_weight"),
    # qwen2_vl, qwen3_vl, glm4v
    *("visual.blocks.0.attn.qkv.weight", "model.visual.merger.mlp.0.weight"),
    # mllama, llama4, idefics3, smolvlm, janus, ovis2
    *("vision_model.patch_embedding.weight", "connector.modality_projection.proj.weight"),
    *("aligner.fc1.weight", "model.visual_embeddings_table.weight"),
    # phi3_v, gemma3n, mistral's own, minicpm-v
    *("model.vision_embed_tokens.embeddings.class_embedding", "embed_vision.embedding_projection.weight"),
    *("vpm.encoder.layers.0.mlp.fc1.weight", "resampler.kv_proj.weight"),
]
TEXT = [
    *("language_model.model.layers.0.self_attn.q_proj.weight", "language_model.lm_head.weight"),
    *("model.layers.0.mlp.switch_mlp.gate_proj.weight", "backbone.layers.0.mixer.conv1d.weight"),
    *("transformer.h.0.attn.c_attn.weight", "audio_tower.conv1.weight"),
]


def test_towers_are_known_by_their_names() -> None:
    assert [name for name in TOWERS if not has_vision([*TEXT, name])] == []
    assert not has_vision(TEXT)
