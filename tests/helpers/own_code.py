"""A user's own network and dataset, right and wrong in many ways."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

R = np.random.default_rng(0)
Y = np.arange(60) % 3
X = R.normal(size=(60, 4)) + Y[:, None]
TOKENS = R.integers(0, 50, (60, 4))


class Net(nn.Module):
    def __init__(self, width=8, returns="logits", classes=3):
        super().__init__()
        self.body, self.head, self.returns = nn.Linear(4, width), nn.Linear(width, classes), returns

    def forward(self, x):
        h = self.body(x).relu()
        z = self.head(h)
        match self.returns:
            case "dict":
                return {"features": h, "logits": z}
            case "tuple":
                return z, h
            case "3-D":
                return z[:, None]
            case "NaN":
                return z * float("nan")
            case "error":
                return self.head(x)
            case "detached":
                return z.detach()
        return z


def net(width=8, returns="logits", classes=3):
    return Net(width, returns, classes)


def no_network():
    return Net


def sequential():
    return nn.Sequential(nn.Linear(5, 3))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, t):
        return self.head(self.embedding(t).mean(1))


class Items(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, i):
        return torch.tensor(X[i], dtype=torch.float32), int(Y[i])


def data(what="arrays"):
    x, y, test_x, test_y = X.copy(), Y, X[:30], Y[:30]
    match what:
        case "NaN":
            x[17, 3] = np.nan
        case "from 1":
            y, test_y = y + 1, test_y + 1
        case "halves":
            y = y / 2
        case "one-hot":
            y = np.eye(3)[y]
        case "shape":
            test_x = test_x[:, :3]
        case "rows":
            y = y[:-1]
        case "bytes":
            x = test_x = np.zeros((60, 4), dtype=np.uint8)
        case "three":
            return x, y, test_x
        case "dict":
            return {"train": x, "test": test_x}
        case "pairs":
            return (x, y), (test_x, test_y)
        case "datasets":
            return TensorDataset(torch.tensor(x), torch.tensor(y)), Items()
        case "tokens":
            x, test_x = TOKENS, TOKENS[:30]
        case "error":
            raise FileNotFoundError("no file points.csv")
    return x, y, test_x, test_y
