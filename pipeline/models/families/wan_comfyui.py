"""ComfyUI's names of a `WanTransformer3DModel`'s weights, of Wan 2.1 and 2.2."""

NAMES = {
    **{f"attn1.to_{each}": f"self_attn.{each}" for each in "qkv"},
    "attn1.to_out.0": "self_attn.o",
    "attn1": "self_attn",
    **{f"attn2.to_{each}": f"cross_attn.{each}" for each in "qkv"},
    "attn2.to_out.0": "cross_attn.o",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "attn2.norm_added_k": "cross_attn.norm_k_img",
    "attn2": "cross_attn",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "blocks.*.norm2": "blocks.*.norm3",
    "blocks.*.scale_shift_table": "blocks.*.modulation",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
}
"""As `ComfyUI.names`; its LoRA loaders know those of diffusers of no Wan."""
