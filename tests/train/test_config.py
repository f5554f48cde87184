import dataclasses
from pathlib import Path

import pytest

from maedfer.errors import InputError
from maedfer.models import LGIFormerConfig, MAEDFERConfig
from maedfer.train import list_recipes, load_config
from maedfer.train.config import check_config, differing_keys, dump_config, read_config, save_config


def finetune(*overrides, recipe=None, first=None):
    return load_config("finetune", recipe, ["data.train=train.csv", *overrides], first=first)


def test_defaults_are_the_published_settings():
    cfg = load_config("pretrain", None, ["data.train=x"])
    assert isinstance(cfg.model, MAEDFERConfig)
    assert (cfg.optim.lr, cfg.optim.min_lr, cfg.optim.betas, cfg.optim.epochs) == (3e-4, 1e-5, (0.9, 0.95), 50)
    assert (cfg.optim.layer_decay, cfg.optim.weight_decay, cfg.train.batch_size) == (1.0, 0.05, 128)
    assert cfg.model.encoder.drop_path == 0.0
    cfg = finetune()
    assert isinstance(cfg.model, LGIFormerConfig)
    assert (cfg.optim.lr, cfg.optim.min_lr, cfg.optim.betas, cfg.optim.epochs) == (1e-3, 1e-6, (0.9, 0.999), 100)
    assert (cfg.optim.layer_decay, cfg.model.drop_path, cfg.train.batch_size) == (0.75, 0.1, 96)
    assert (cfg.augment.mixup, cfg.augment.cutmix, cfg.augment.smoothing, cfg.eval.views) == (0.8, 1.0, 0.1, 2)


def test_recipe_then_overrides(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("optim: {lr: 2e-4, epochs: 7}\nmodel: {name: lgi_former_tiny}\ndata: {train: a.csv}\n")
    cfg = load_config("finetune", recipe, ["optim.epochs=9", "data.classes=[sad, happy]"])
    assert (cfg.optim.lr, cfg.optim.epochs, cfg.data.train) == (2e-4, 9, "a.csv")
    assert (cfg.clip_model.embed_dim, cfg.clip_model.num_classes, cfg.clip_model.drop_path) == (256, 2, 0.1)
    assert cfg.output == "runs/mine"
    assert cfg.classes == ("sad", "happy")


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_resolved_settings_load_again(task, tmp_path):
    overrides = ["data.train=/x.csv", "output=/o", "seed=3", "optim.clip_grad=0.02", "data.classes=[no, off, ja: 1]"]
    if task == "pretrain":
        overrides += [
            "model.encoder.clip_size=[8,32,32]",
            "model.encoder.region_size=[2,1,2]",
            "augment.crop=[0,1,2,3]",
        ]
    cfg = load_config(task, None, overrides)
    save_config(cfg, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == cfg
    assert load_config(task, tmp_path / "config.yaml") == cfg
    assert "clip_size: [" in dump_config(cfg)


@pytest.mark.parametrize("recipe", list_recipes())
def test_shipped_recipes_load(recipe):
    task = "pretrain" if "pretrain" in recipe else "finetune"
    cfg = load_config(task, recipe, ["data.train=x.csv", "data.test=y.csv"])
    check_config(cfg)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.lrr=1"], "did you mean 'lr'"),
        (["optin.lr=1"], "did you mean 'optim'"),
        (["model.dept=4"], "did you mean 'depth'"),
        (["model.name=lgi_former_bse"], "did you mean 'lgi_former_base'"),
        (["optim.epochs=many"], "optim.epochs must be a whole number"),
        (["optim=3"], "optim must be a section"),
        (["data=3"], "data must be a section"),
        (["model=lgi_former_base"], "model must be a section"),
        (["model="], "model must be a section"),
        (["optim="], "optim must be a section"),
        (["optim.lr"], "not of the form key=value"),
        (["data.classes=[a, b]", "model.num_classes=3"], "model.num_classes is 3 but data.classes names 2"),
        (["data.train="], "data.train is not set"),
        (["eval.select=val"], "data.val is not set"),
        (["eval.select=test"], "data.test is not set"),
        (["optim.warmup_epochs=20", "optim.epochs=10"], "warmup_epochs"),
        (["train.batch_size=0"], "train.batch_size must be between 1 and 1000000, got 0"),
        (["augment.flip=2"], "augment.flip must be between 0 and 1"),
        (["train.freeze_blocks=17"], "train.freeze_blocks must be between 0 and 16"),
        (["optim.clip_grad=0"], "optim.clip_grad"),
        (["model.name=mae_dfer_base"], "does not fit the task"),
        (["model.region_size=[2,3,10]"], "does not divide"),
        (["model.in_channels=1"], "in_channels"),
        (["optim.lr=-1"], "optim.lr must be between 0 and 100, got -1$"),
        (["optim.lr=.nan"], "optim.lr must be a finite number between 0 and 100, got nan$"),
        (["optim.weight_decay=.inf"], "optim.weight_decay must be a finite number between 0 and 100, got inf$"),
        (["optim.betas=[0.9, 1]"], r"optim.betas\[1\] must be at least 0 and below 1, got 1$"),
        (["optim.eps=0"], "optim.eps must be above 0 and at most 1, got 0$"),
        (["seed=-1"], "seed must be between 0 and "),
        (["train.threads=-1"], "train.threads must be between 0 and 4096"),
        (["augment.scale=[0.5, 0.1]"], "augment.scale must go from the smaller number to the larger one"),
        (["augment.ratio=[0, 1]"], r"augment.ratio\[0\] must be between 0.01 and 100"),
        (["augment.multiscale=[]"], "augment.multiscale must have one number or more"),
        (["model.mlp_ratio=0"], "model.mlp_ratio must be above 0"),
        (["model.num_heads=0"], "model.num_heads must be between 1 and 65536"),
        (["model.region_size=[2, 0, 10]"], r"model.region_size\[1\] must be between 1 and 65536"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(InputError, match=message):
        finetune(*overrides)


def test_classifier_cannot_be_pretrained_and_encoder_is_a_section():
    with pytest.raises(InputError, match="takes a masked autoencoder"):
        load_config("pretrain", None, ["data.train=x", "model.name=lgi_former_base"])
    with pytest.raises(InputError, match=r"model\.encoder must be a section"):
        load_config("pretrain", None, ["data.train=x", "model.encoder=vit"])


def test_the_architecture_goes_by_its_former_name_too():
    assert finetune("model.encoder=vit").model.architecture == "vit"
    overrides = ["data.train=x", "model.encoder.encoder=vit"]
    assert load_config("pretrain", None, overrides).clip_model.architecture == "vit"


def test_of_the_architecture_and_its_former_name_the_last_on_the_command_line_counts(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {name: lgi_former_tiny, encoder: vit}\n")
    assert finetune(recipe=recipe).model.architecture == "vit"
    assert finetune("model.architecture=lgi", recipe=recipe).model.architecture == "lgi"
    assert finetune("model.encoder=vit", "model.architecture=lgi").model.architecture == "lgi"
    assert finetune("model.architecture=lgi", "model.encoder=vit").model.architecture == "vit"
    assert finetune("model={encoder: vit}", "model.architecture=lgi").model.architecture == "lgi"
    for first, second in (("encoder", "architecture"), ("architecture", "encoder")):
        overrides = ["data.train=x", f"model.encoder.{first}=vit", f"model.encoder.{second}=lgi"]
        assert load_config("pretrain", None, overrides).clip_model.architecture == "lgi"


def test_both_names_of_the_architecture_in_one_section_are_refused(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {encoder: vit, architecture: lgi}\n")
    with pytest.raises(InputError, match=r"^model\.encoder is the former name of model\.architecture: give one"):
        finetune(recipe=recipe)
    recipe.write_text("model: {encoder: {encoder: vit, architecture: lgi}}\n")
    both = r"^model\.encoder\.encoder is the former name of model\.encoder\.architecture"
    with pytest.raises(InputError, match=both):
        load_config("pretrain", recipe, ["data.train=x"])


def test_the_former_name_in_the_settings_of_an_evaluated_run_gives_way(tmp_path):
    save_config(finetune(f"output={tmp_path}", "data.test=x", "model.architecture=vit"), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("architecture: vit", "encoder: vit"))
    assert read_config(tmp_path / "config.yaml").clip_model.architecture == "vit"
    run = f"eval.checkpoint={tmp_path}"
    assert load_config("evaluate", None, [run]).clip_model.architecture == "vit"
    with pytest.raises(InputError, match=r"^model\.architecture \('vit' in the weights, 'lgi' here\) cannot change"):
        load_config("evaluate", None, [run, "model.architecture=lgi"])


def test_the_task_is_the_command(tmp_path):
    with pytest.raises(InputError, match="^task cannot be 'pretrain' here: the command says what is run"):
        finetune("task=pretrain", recipe="dfew")
    with pytest.raises(InputError, match="^task cannot be 'finetune' here"):
        load_config("evaluate", None, ["task=finetune"])
    cfg = finetune("task=finetune", "data.train=/x", "output=/o")
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config("finetune", tmp_path / "config.yaml") == cfg


def test_mistakes_of_a_masked_autoencoder_are_named():
    for override, message in {
        "model.encoder.depth=0": "model.encoder.depth must be between 1 and 1000, got 0",
        "model.mask_ratio=1": "model.mask_ratio must be between 0 and 1, both excluded, got 1",
        "model.decoder_keep=0": "model.decoder_keep must be above 0 and at most 1, got 0",
        "model.decoder_heads=0": "model.decoder_heads must be between 1 and 65536, got 0",
    }.items():
        with pytest.raises(InputError, match=f"^{message}$"):
            load_config("pretrain", None, ["data.train=x", override])


def test_settings_put_together_by_hand_are_checked_as_well():
    cfg = finetune()
    wrong = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, lr=-1.0))
    with pytest.raises(InputError, match=r"^optim\.lr must be between 0 and 100, got -1$"):
        check_config(wrong)
    with pytest.raises(InputError, match=r"^depth must be between 1 and 1000, got 0$"):
        dataclasses.replace(cfg.model, depth=0)


def test_recipe_mistakes_are_named(tmp_path):
    with pytest.raises(InputError, match="unknown recipe 'dfw': did you mean 'dfew'"):
        finetune(recipe="dfw")
    with pytest.raises(InputError, match="does not exist"):
        finetune(recipe=str(tmp_path / "absent.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [1,\n")
    with pytest.raises(InputError, match="is not YAML"):
        finetune(recipe=tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="must hold sections"):
        finetune(recipe=tmp_path / "list.yaml")
    with pytest.raises(InputError, match="is for 'pretrain'"):
        finetune(recipe="voxceleb2_pretrain")
    with pytest.raises(InputError, match="unknown task 'finetun'"):
        load_config("finetun")


def test_settings_can_be_shown_before_they_can_be_run():
    assert load_config("finetune", "dfew", check=False).data.train == ""


def test_evaluation_starts_from_the_run_it_is_about(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    trained = finetune(f"output={run}", "data.test=test.csv", "data.classes=[a,b,c]", "eval.views=5")
    save_config(trained, run / "config.yaml")
    (run / "checkpoints").mkdir()
    for checkpoint in (run, run / "checkpoints" / "last.pt"):
        cfg = load_config("evaluate", None, [f"eval.checkpoint={checkpoint}", "data.test=other.csv"])
        assert (cfg.data.test, cfg.classes, cfg.eval.views, cfg.model) == (
            "other.csv",
            ("a", "b", "c"),
            5,
            trained.model,
        )
        assert cfg.output == str(run / "evaluation")
    cfg = load_config("evaluate", None, [f"eval.runs=[{run}, {run}]"])
    assert cfg.classes == ("a", "b", "c")
    with pytest.raises(InputError, match="exclude each other"):
        load_config("evaluate", None, [f"eval.runs=[{run}]", f"eval.checkpoint={run}"])
    with pytest.raises(InputError, match="nothing to evaluate"):
        load_config("evaluate")
    with pytest.raises(InputError, match=r"data\.test is not set"):
        load_config("evaluate", None, ["eval.checkpoint=weights.pth"])


def test_differing_keys_name_what_changes_a_run():
    first = finetune()
    other = dataclasses.replace(
        first,
        output="elsewhere",
        data=dataclasses.replace(first.data, workers=1),
        optim=dataclasses.replace(first.optim, epochs=5),
        model=dataclasses.replace(first.model, depth=4),
    )
    keys = differing_keys(first, other)
    assert keys == ["model.depth (16 there, 4 here)", "optim.epochs (100 there, 5 here)"]
    assert differing_keys(first, first) == []


ODD = [
    "caf\udce9 #2",
    "2024",
    "no",
    "ft: 4",
    "@x",
    "*.csv",
    "[a,b",
    "'q'",
    '"q"',
    "null",
    "a\nb",
    "é 😀",
    " a ",
    "-",
    "a=b",
    "{x}",
]


@pytest.mark.parametrize("name", ODD)
def test_every_name_of_a_file_is_kept_and_saved(name, tmp_path):
    cfg = finetune(f"output=/r/{name}", f"data.root={name}", first={"data.classes": [name, "b"]})
    assert (cfg.output, cfg.data.root, cfg.classes[0]) == (f"/r/{name}", name, name)
    save_config(cfg, tmp_path / "config.yaml")
    saved = read_config(tmp_path / "config.yaml")
    assert (saved.output, saved.data.root, saved.classes) == (cfg.output, str(Path(name).absolute()), cfg.classes)
    # As on a terminal that has ASCII alone.
    (tmp_path / "ascii.yaml").write_text(dump_config(cfg, ascii_only=True), encoding="ascii")
    assert load_config("finetune", tmp_path / "ascii.yaml") == cfg


def test_saved_settings_lead_to_the_same_places_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    cfg = finetune("data.test=lists/test.csv", "train.init=runs/pre", "output=runs/ft", "eval.runs=[a, /b]")
    save_config(cfg, "config.yaml")
    assert read_config("config.yaml").train.resume == "auto"
    monkeypatch.chdir(tmp_path / "elsewhere")
    saved = read_config("../config.yaml")
    assert saved.data.test == f"{tmp_path}/lists/test.csv" and saved.data.root == ""
    assert (saved.train.init, saved.output) == (f"{tmp_path}/runs/pre", f"{tmp_path}/runs/ft")
    assert saved.eval.runs == (f"{tmp_path}/a", "/b")
    # The command that is given again says the same by paths from here.
    again = finetune("data.test=../lists/test.csv", "train.init=../runs/pre", "output=../runs/ft")
    assert differing_keys(saved, again) == []
    other = finetune("train.init=../runs/pre2", "output=../runs/ft")
    assert differing_keys(saved, other) == [f"train.init ('{tmp_path}/runs/pre' there, '../runs/pre2' here)"]


def test_a_project_that_was_moved_goes_on(tmp_path):
    (tmp_path / "old" / "runs" / "ft").mkdir(parents=True)
    cfg = finetune(f"train.init={tmp_path}/old/runs/pre", f"output={tmp_path}/old/runs/ft")
    save_config(cfg, tmp_path / "old" / "runs" / "ft" / "config.yaml")
    (tmp_path / "old" / "runs" / "ft" / "environment.json").write_text("{}")
    (tmp_path / "old").rename(tmp_path / "new")
    moved = tmp_path / "new" / "runs" / "ft"
    here = finetune(f"train.init={tmp_path}/new/runs/pre", f"output={moved}")
    assert differing_keys(read_config(moved / "config.yaml"), here) == []
    # Its own settings, given as a recipe, are about the folder that they lie in.
    assert load_config("finetune", moved / "config.yaml").output == str(moved)
    assert load_config("finetune", moved / "config.yaml", ["output=x"]).output == "x"


def test_classes_on_the_command_line_count_over_the_number_of_a_recipe(tmp_path):
    save_config(finetune("data.classes=[a, b, c]"), tmp_path / "config.yaml")
    cfg = load_config("finetune", tmp_path / "config.yaml", ["data.classes=[a, b]"])
    assert (cfg.classes, cfg.clip_model.num_classes) == (("a", "b"), 2)
    with pytest.raises(InputError, match="model.num_classes is 4 but data.classes names 3"):
        load_config("finetune", tmp_path / "config.yaml", ["model.num_classes=4"])


def test_what_pre_training_does_not_have_is_refused():
    for setting, message in (("train.freeze_blocks=1", "for fine-tuning"), ("eval.select=val", "scores nothing")):
        with pytest.raises(InputError, match=message):
            load_config("pretrain", None, ["data.train=clips.txt", setting])


@pytest.mark.parametrize("key", ["1", "true", "null", "1.5", "2024-01-01"])
@pytest.mark.parametrize("section", ["model", "data", "optim"])
def test_keys_that_are_no_names_are_refused(section, key, tmp_path):
    (tmp_path / "odd.yaml").write_text(f"{section}:\n  {key}: 2\n")
    with pytest.raises(InputError, match="unknown key"):
        load_config("finetune", tmp_path / "odd.yaml", ["data.train=a.csv"])
