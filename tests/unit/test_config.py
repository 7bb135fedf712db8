"""The configuration tree: where values come from, and what is refused."""

from __future__ import annotations

import pytest

from irstd import config
from irstd.errors import InputError


def test_a_recipe_that_is_not_there_gets_the_nearest_name(tmp_path):
    (tmp_path / "demo.yaml").write_text("train: {lr: 1.0e-3}\n")
    with pytest.raises(InputError, match=r"demo\.yml: no such file \(did you mean 'demo\.yaml'\?\)$"):
        config.load(tmp_path, tmp_path / "demo.yml", {}, "ggl-net")


def test_layers_go_over_each_other(tmp_path):
    (tmp_path / "params.yaml").write_text("train: {lr: 1.0e-3, batch: 4}\nshard: {chunk: 8}\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train:\n  lr: 2.0e-3\n")
    found = config.load(tmp_path, recipe, config.parse_overrides(["train.epochs=7", "data.sets=[a,b]"]), "ggl-net")
    assert (found.train.lr, found.train.batch, found.train.epochs) == (2e-3, 4, 7)
    assert found.shard.chunk == 8
    assert found.data.sets == ["a", "b"]


def test_dotted_keys_of_shard_in_params_are_refused_since_dvc_does_not_see_them(tmp_path):
    (tmp_path / "params.yaml").write_text("shard.frames: 3\n")
    with pytest.raises(InputError, match=r"^params.yaml: shard.frames: .* write frames: under shard:$"):
        config.load(tmp_path)
    (tmp_path / "params.yaml").write_text("shard: {split.by: block}\ntrain.epochs: 7\n")
    found = config.load(tmp_path)
    assert (found.shard.split.by, found.train.epochs) == ("block", 7)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("train.epochs=ten", ["train.epochs=ten", "integer"]),
        ("train.epoch=3", ["unknown key", "train.epochs"]),
        ("trian.lr=3", ["unknown key"]),
        ("train.zoom=.2", ["did you mean 'data.zoom'"]),
        ("train.activation_checkpoint=true", ["did you mean 'train.activation_checkpointing'"]),
        ("train=3", ["section"]),
        ("train.lr", ["key=value"]),
        ("train.lr=-1", ["train.lr", "greater than 0"]),
        ("model.width=2", ["model.width", "4"]),
        ("data.intensity=half", ["data.intensity"]),
        ("shard.split.train=0.9", ["add up to 1"]),
        ("model.name=ggl", ["ggl-net"]),
        ("data.resize=letterbox:abc", ["data.resize=letterbox:abc: write", "stretch:N", "16 to 8192"]),
        ("data.resize=stretch:0", ["data.resize=stretch:0: write"]),
        ("data.resize=letterbox:", ["data.resize", "write native"]),
        ("data.resize=stretch:99999", ["data.resize"]),
        ("data.resize=native:512", ["data.resize"]),
        ("data.resize=512", ["data.resize=512: write"]),
        ("data.interpolation=cubic", ["data.interpolation", "bicubic"]),
    ],
)
def test_a_bad_override_is_one_line(pair, words):
    with pytest.raises(InputError) as caught:
        config.load(overrides=config.parse_overrides([pair]))
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_crops_and_resized_frames_exclude_each_other():
    """A network would be trained at one scale and measured at another."""
    with pytest.raises(InputError, match=r"data\.crop=256 .*data\.resize=stretch:512.*data\.crop=null") as caught:
        config.load(overrides=config.parse_overrides(["data.crop=256", "data.resize=stretch:512"]))
    assert "\n" not in str(caught.value)
    assert (
        config.load(overrides=config.parse_overrides(["data.crop=null", "data.resize=stretch:512"])).data.crop is None
    )


@pytest.mark.parametrize("text", ["- a\n- b\n", "train: [", "train: {epochs: ten}\n", "tarin: {epochs: 1}\n"])
def test_a_bad_recipe_names_its_file(tmp_path, text):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml"):
        config.load(recipe=recipe)


def test_yaml_numbers_without_a_dot_are_numbers():
    assert config.parse_overrides(["train.lr=1e-3"]) == {"train.lr": 0.001}


def test_a_loss_needs_a_weight():
    with pytest.raises(InputError, match="every loss weight is 0"):
        config.load(overrides={"train.loss.soft_iou": 0, "train.loss.bce": 0})


def test_a_key_that_is_like_no_other_gets_no_name():
    with pytest.raises(InputError, match="unknown key") as caught:
        config.load(overrides=config.parse_overrides(["train.learning_rate=.1"]))
    assert "did you mean" not in str(caught.value)


def test_unknown_model_gets_the_nearest_name():
    with pytest.raises(InputError, match="ggl-net"):
        config.load(model="gglnet")


def test_identity_of_a_run_from_before_there_was_a_focal_loss():
    found = config.load().identity()["train"]
    assert "init" not in found and not [name for name in found["loss"] if "focal" in name]
    with_masks = config.load(overrides={"train.loss.focal": 1}).identity()["train"]["loss"]
    assert {"focal", "focal_gamma", "focal_alpha"} <= with_masks.keys() and "objectness_focal" not in with_masks
    with_boxes = config.load(overrides={"train.loss.objectness_focal": True}).identity()["train"]["loss"]
    assert {"objectness_focal", "focal_gamma", "focal_alpha"} <= with_boxes.keys() and "focal" not in with_boxes


def test_identity_ignores_what_does_not_decide():
    one, other = config.load(), config.load(overrides={"registry.name": "mine", "data.sets": ["a"]})
    assert one.identity() == other.identity()
    # The threshold for a wanted Fa is chosen when the checkpoint is; one without it is the run that it was.
    assert config.load(overrides={"evaluate.wanted_fa": 1e-5}).identity() == one.identity()
    assert "wanted_fa" not in one.identity()["select"]
    assert config.load(overrides={"train.seed": 1}).identity() != one.identity()


def test_a_scale_counts_only_where_it_is_used():
    def of(**loss):
        return config.load(overrides={f"train.loss.{k}": v for k, v in loss.items()}).identity()

    assert of(gaussian_scale=5) == of()
    assert of(similarity="gaussian", gaussian_scale=5) != of(similarity="gaussian")


def test_nest_and_flatten_are_inverse():
    values = {"train.lr": 0.1, "shard.split.by": "block"}
    assert config.flatten(config.nest(values), "here") == values
