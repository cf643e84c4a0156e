"""Adapters: a step of training moves them alone, and what is saved needs no peft."""

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from tests.backbone.families import embeddings, family_folder, fresh, mixed_rows
from umer1_core.backbone.family import family_of
from umer1_core.backbone.model import add_lora, freeze_vision, load_backbone, save_backbone


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen3_vl"])
def trained(request, tmp_path_factory):
    """A backbone with adapters after three steps, its rows, and its weights as they were."""
    backbone = fresh(request.param)
    rows = mixed_rows(backbone, tmp_path_factory.mktemp("media"))
    freeze_vision(backbone)
    backbone = add_lora(backbone, rank=4, alpha=8, dropout=0.1)
    before = {name: weight.clone() for name, weight in backbone.model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in backbone.model.parameters() if p.requires_grad], lr=1e-2)
    torch.manual_seed(0)
    backbone.model.train()
    for _ in range(3):
        states = embeddings(backbone, rows, "packed")
        logits = states @ backbone.model.lm_head.weight.T
        logits.logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    backbone.model.eval()
    return backbone, rows, before


def test_training_moves_the_adapters_the_mergers_and_the_token_rows_alone(trained):
    backbone, _, before = trained
    moved = {name for name, weight in backbone.model.state_dict().items() if not torch.equal(weight, before[name])}
    groups = ("lora_A", "lora_B", "trainable_tokens_delta", "merger")
    assert all(any(group in name for group in groups) for name in moved)
    assert all(any(group in name for name in moved) for group in groups)
    assert not any("visual" in name for name in moved if "lora" in name)
    assert sum(p.numel() for p in backbone.model.parameters() if p.requires_grad) < 0.6 * sum(
        p.numel() for p in backbone.model.parameters()
    )


def test_both_token_rows_are_learned_at_the_input_and_at_the_head(trained):
    backbone, _, _ = trained
    base = load_backbone(family_folder(backbone.model.config.model_type)).model.lm_head.weight
    for table in (backbone.model.lm_head.weight, backbone.model.get_input_embeddings().weight):
        moved = (table != base).any(1).nonzero().flatten().tolist()
        assert sorted(moved) == sorted([backbone.ids.gen, backbone.ids.disc])


def test_the_saved_checkpoint_is_plain_and_gives_the_same_vectors(trained, tmp_path):
    backbone, rows, _ = trained
    state = {name: weight.clone() for name, weight in backbone.model.state_dict().items()}
    save_backbone(backbone, tmp_path)
    plain = load_backbone(str(tmp_path))
    assert not any("lora" in name or "base_layer" in name for name in plain.model.state_dict())
    with torch.no_grad():
        wanted, found = embeddings(backbone, rows, "packed"), embeddings(plain, rows, "packed")
        untrained = embeddings(fresh(backbone.model.config.model_type), rows, "packed")
    assert (wanted - found).abs().max() < 1e-5 < (wanted - untrained).abs().max()
    assert all(torch.equal(weight, state[name]) for name, weight in backbone.model.state_dict().items())


def test_weights_that_were_gathered_elsewhere_can_be_saved(trained, tmp_path):
    backbone, rows, _ = trained
    gathered = {name: weight.clone() for name, weight in backbone.model.state_dict().items()}
    with torch.no_grad():
        wanted = embeddings(backbone, rows, "packed")
        shell = replace(backbone, model=fresh_with_adapters(backbone))
        save_backbone(shell, tmp_path, gathered)
        assert (wanted - embeddings(load_backbone(str(tmp_path)), rows, "packed")).abs().max() < 1e-5


def fresh_with_adapters(backbone):
    """The same modules with other weights, as where the trained ones are held in shards."""
    other = fresh(backbone.model.config.model_type)
    add_lora(other, rank=4, alpha=8)
    return other.model


def test_the_adapter_goes_onto_the_base_checkpoint_with_peft(trained, tmp_path):
    backbone, rows, _ = trained
    save_backbone(backbone, tmp_path)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 4 and settings["lora_alpha"] == 8
    kind = backbone.model.config.model_type
    base = fresh(kind)
    base.model.model.visual.load_state_dict(backbone.model.model.visual.state_dict())
    adapted = PeftModel.from_pretrained(base.model, str(tmp_path / "adapter"))
    with torch.no_grad():
        found = embeddings(replace(base, model=adapted.base_model.model), rows, "packed")
        assert (found - embeddings(backbone, rows, "packed")).abs().max() < 1e-5
    assert isinstance(base.model, family_of(kind, "").model_class)


def test_a_head_of_its_own_learns_both_tokens_and_is_merged(tmp_path):
    base = load_backbone(family_folder("qwen2_vl", tied=False))
    backbone = add_lora(load_backbone(family_folder("qwen2_vl", tied=False)), rank=4, alpha=8)
    assert base.model.lm_head.weight.data_ptr() != base.model.get_input_embeddings().weight.data_ptr()
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter += 1.0 if "lm_head" in name else 2.0
    save_backbone(backbone, tmp_path)
    saved = load_backbone(str(tmp_path)).model
    for table, plain, step in (
        (saved.lm_head.weight, base.model.lm_head.weight, 1.0),
        (saved.get_input_embeddings().weight, base.model.get_input_embeddings().weight, 2.0),
    ):
        wanted = plain.detach().clone()
        wanted[[backbone.ids.gen, backbone.ids.disc]] += step
        assert torch.equal(table, wanted)


@pytest.mark.parametrize("gathered", [False, True])
def test_a_full_model_is_saved_as_it_is(tmp_path, gathered):
    backbone = fresh()
    state = {name: weight.clone() + 1 for name, weight in backbone.model.state_dict().items()} if gathered else None
    save_backbone(backbone, tmp_path, state)
    saved = load_backbone(str(tmp_path)).model.state_dict()
    wanted = state or backbone.model.state_dict()
    assert saved.keys() == wanted.keys() and all(torch.equal(wanted[name], saved[name]) for name in wanted)
    assert not (tmp_path / "adapter").exists()
