"""A mask belongs to the stack that it was made for: models of several inputs against explicit norms
in float64.
"""

from __future__ import annotations

import pytest
import torch
from helpers.stacks import IDS, SIZES, VISION, WORDS, adapted, agree, clip, explicit, pixels, text
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPVisionConfig,
    DetrConfig,
    DetrForObjectDetection,
    HubertConfig,
    HubertModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LxmertConfig,
    LxmertModel,
    PerceiverConfig,
    PerceiverForSequenceClassification,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import loradrop
from loradrop.lora.inject import lora_sites

PATCHES = 5  # 2 x 2 and the class token: as many as there are tokens


def test_two_towers_whose_inputs_are_as_long():
    model, (ids, mask) = adapted(clip()), text()
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels()}
    expected = explicit(model, given, lambda name, x: mask if "text_model" in name else None)
    importance = loradrop.measure(model, [given])
    agree(importance, expected)
    assert importance.tokens == 3 * PATCHES
    examples = loradrop.measure(model, [given], "examples")
    for kind, layers in importance.values.items():
        same = "vision" in kind  # every image has as many patches
        assert (examples.values[kind] == pytest.approx(layers, rel=1e-5)) is same


def test_two_towers_of_peft_and_a_tower_alone():
    (ids, mask), own = text(7), adapted(clip())
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels()}
    expected = explicit(own, given, lambda name, x: mask if "text_model" in name else None)
    targets = r".*text_model.*\.(q|v)_proj"
    theirs = get_peft_model(clip(), LoraConfig(r=4, lora_alpha=16, target_modules=targets)).eval()
    for site, module in lora_sites(own).items():
        if "text_model" in site.name:
            layer = theirs.base_model.model.get_submodule(site.name)
            layer.lora_A["default"].weight.data.copy_(module.lora_A.data)
            layer.lora_B["default"].weight.data.copy_(module.lora_B.data)
    got = loradrop.measure(theirs, [given]).values
    alone = clip().eval()
    loradrop.add_lora(alone, rank=4, target_modules=["text_model.*.q_proj", "text_model.*.v_proj"])
    assert (
        all("text_model" in site.name for site in lora_sites(alone)) and len(lora_sites(alone)) == 4
    )
    assert set(got) == {"q_proj", "v_proj"}
    # at layer 0 only: the vision tower does not reach the text tower, whose own LoRA is the same
    wanted = {
        (s.name.split(".")[-1], s.layer): g for s, g in expected.items() if "text_model" in s.name
    }
    assert {
        (kind, i): g for kind, layers in got.items() for i, g in layers.items()
    } == pytest.approx(wanted, rel=1e-4)


def test_image_tokens_in_a_text():
    vision = CLIPVisionConfig(**VISION)
    language = LlamaConfig(**WORDS, **IDS, num_key_value_heads=2)
    config = LlavaConfig(
        vision_config=vision, text_config=language, image_token_id=59, vision_feature_layer=-1
    )
    torch.manual_seed(0)
    model, (ids, mask) = adapted(LlavaForConditionalGeneration(config)), text()
    ids = ids.clamp(max=58)
    # 4 patches in each text; padding in front
    ids[:, 1:] = 59
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels()}
    expected = explicit(model, given, lambda name, x: mask if "language_model" in name else None)
    agree(loradrop.measure(model, [given]), expected)
    given["labels"] = torch.where(torch.arange(5) < 4, -100, ids)
    with pytest.raises(
        ValueError,
        match=r"is for decoders alone: .*vision_tower.* sees no targets, but pixel_values; say",
    ):
        loradrop.measure(model, [given], "target_tokens")


def test_streams_that_attend_to_each_other():
    """LXMERT's two streams know of each other from the first cross-attention on, and are
    as long."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 60}
    layers = {
        "l_layers": 2,
        "r_layers": 1,
        "x_layers": 2,
        "visual_feat_dim": 6,
        "visual_pos_dim": 4,
    }
    torch.manual_seed(0)
    targets = [
        "lang_self_att.self.query",
        "visn_self_att.self.query",
        "lang_inter.dense",
        "visn_inter.dense",
    ]
    model, (ids, mask) = adapted(LxmertModel(LxmertConfig(**sizes, **layers)), targets), text()
    boxes = {"visual_feats": torch.randn(3, 5, 6), "visual_pos": torch.rand(3, 5, 4)}
    given = {"input_ids": ids, "attention_mask": mask, **boxes}
    agree(
        loradrop.measure(model, [given]),
        explicit(model, given, lambda name, x: mask if "lang" in name else None),
    )
    objects = mask.flip(1)
    given["visual_attention_mask"] = objects
    expected = explicit(model, given, lambda name, x: mask if "lang" in name else objects)
    agree(loradrop.measure(model, [given]), expected)


def test_a_text_that_attends_to_an_image():
    words = {**WORDS, **IDS, "encoder_hidden_size": 32}
    torch.manual_seed(0)
    config = BlipConfig(text_config=words, vision_config=VISION, image_text_hidden_size=16)
    model = adapted(BlipForImageTextRetrieval(config), ["qkv", "query", "value"])
    ids, mask = text()
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels()}

    def mask_of(name, x):
        image = "vision_model" in name or ("crossattention" in name and name.endswith("value"))
        return None if image else mask

    agree(loradrop.measure(model, [given]), explicit(model, given, mask_of))


def test_an_image_is_told_in_words():
    torch.manual_seed(0)
    decoder = BertConfig(**WORDS, is_decoder=True, add_cross_attention=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VISION), decoder)
    config.decoder_start_token_id, config.pad_token_id = 0, 1
    model, (ids, mask) = VisionEncoderDecoderModel(config), text()
    names = {
        name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)
    }
    model = adapted(model, sorted(names & {"query", "value", "q_proj", "v_proj"}))
    given = {"pixel_values": pixels(), "labels": torch.where(mask > 0, ids, -100)}

    def mask_of(name, x):
        image = name.startswith("encoder") or ("crossattention" in name and name.endswith("value"))
        return None if image else mask

    agree(loradrop.measure(model, [given]), explicit(model, given, mask_of))


AUDIO = {
    **SIZES,
    "conv_dim": [8, 8],
    "conv_stride": [2, 2],
    "conv_kernel": [3, 2],
    "num_feat_extract_layers": 2,
}
AUDIO |= {
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 20,
    "feat_extract_norm": "layer",
}


@pytest.mark.parametrize(
    ("make", "config"), [(Wav2Vec2Model, Wav2Vec2Config), (HubertModel, HubertConfig)]
)
def test_a_mask_of_samples_is_mapped_to_frames(make, config):
    torch.manual_seed(0)
    model = adapted(make(config(**AUDIO)), ["q_proj", "v_proj"])
    lengths = torch.tensor([40, 22, 9])
    samples = (torch.arange(40) < lengths[:, None]).long()
    frames = ((lengths - 3) // 2 + 1 - 2) // 2 + 1  # of two convolutions
    mask = (torch.arange(int(frames[0])) < frames[:, None]).long()
    given = {"input_values": torch.randn(3, 40), "attention_mask": samples}
    agree(loradrop.measure(model, [given]), explicit(model, given, lambda name, x: mask))
    # frames of a batch where nothing is padding, and of one without a mask
    whole = {"input_values": given["input_values"], "attention_mask": torch.ones(3, 40).long()}
    expected = explicit(model, whole, lambda name, x: None)
    agree(loradrop.measure(model, [whole]), expected)
    agree(loradrop.measure(model, [{"input_values": given["input_values"]}]), expected)


def test_a_mask_of_samples_in_an_encoder_decoder():
    layers = {
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    }
    sizes = {
        "vocab_size": 60,
        "d_model": 32,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        **layers,
        **IDS,
    }
    torch.manual_seed(0)
    config = WhisperConfig(
        **sizes, max_source_positions=10, num_mel_bins=8, decoder_start_token_id=0
    )
    model, (ids, target) = adapted(WhisperForConditionalGeneration(config)), text()
    lengths = torch.tensor([20, 13, 6])
    given = {"input_features": torch.randn(3, 8, 20), "labels": torch.where(target > 0, ids, -100)}
    given["attention_mask"] = (torch.arange(20) < lengths[:, None]).long()
    frames = (torch.arange(10) < ((lengths + 1) // 2)[:, None]).long()

    def mask_of(name, x):
        across = "encoder_attn.v_proj" in name
        return frames if "encoder.layers" in name or across else target

    agree(loradrop.measure(model, [given]), explicit(model, given, mask_of))


def test_learned_queries_have_no_mask():
    """DETR's decoder begins with queries that are the same for every image; all of them count."""
    layers = {
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    }
    sizes = {
        "d_model": 32,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "num_queries": 5,
        **layers,
    }
    backbone = {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8],
        "depths": [1],
        "out_features": ["stage1"],
    }
    backbone["layer_type"] = "basic"
    torch.manual_seed(0)
    config = DetrConfig(
        **sizes, use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone
    )
    model = adapted(DetrForObjectDetection(config))
    given = {"pixel_values": torch.randn(2, 3, 16, 16)}
    agree(loradrop.measure(model, [given]), explicit(model, given, lambda name, x: None))
    half = torch.ones(2, 16, 16).long()
    agree(
        loradrop.measure(model, [{**given, "pixel_mask": half}]),
        explicit(model, given, lambda name, x: None),
    )
    half[1, :, 8:] = 0
    with pytest.raises(
        ValueError,
        match=r"from pixel_mask .* made of pixel_values, are padding: .*token_mask",
    ):
        loradrop.measure(model, [{**given, "pixel_mask": half}])
    names = {"encoder": None, "encoder_attn.v_proj": None}
    # the decoder's queries have no padding
    loradrop.measure(model, [{**given, "pixel_mask": half}], token_mask=names)


def test_latents_that_read_a_text():
    sizes = {
        "num_latents": 5,
        "d_latents": 16,
        "d_model": 16,
        "num_blocks": 1,
        "num_self_attends_per_block": 2,
    }
    heads = {
        "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2,
        "vocab_size": 60,
        "num_labels": 2,
    }
    torch.manual_seed(0)
    config = PerceiverConfig(**sizes, **heads, max_position_embeddings=5)
    model = adapted(PerceiverForSequenceClassification(config), ["query", "value"])
    ids, mask = text()
    given = {"inputs": ids, "attention_mask": mask}

    def mask_of(name, x):
        return mask if "encoder.cross_attention" in name and name.endswith("value") else None

    agree(loradrop.measure(model, [given]), explicit(model, given, mask_of))
