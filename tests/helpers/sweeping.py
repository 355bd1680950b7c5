"""A small study of blobs, swept with Python objects in this process."""

import wdgrid
from helpers.blobs import blobs, network

AXES = {"lr": {"values": "1, 1/2, 1/4"}, "weight_decay": {"values": "0, 1", "unit": 0.01}}
TASK = {"epochs": 3, "batch_size": 20, "device": "cpu"}
STUDY = {"task": TASK, "axes": AXES, "panels": [{"optimizer": "sgdw", "lr_unit": 0.1}], "seeds": [0, 1]}
STILL = {"lr": {"values": [1e-30]}, "weight_decay": {"values": [0]}}
NAMED = {**STUDY, "task": {**TASK, "model": "helpers.blobs:network", "dataset": "helpers.blobs:blobs"}}


def swept(study=STUDY, **given):
    return wdgrid.sweep(study, **{"name": "s", "progress": False, "model": network, "data": blobs, **given})


def numbers(table):
    return table.drop(columns=["seconds"])
