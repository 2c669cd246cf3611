import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(64, 96)
        self.fc2 = torch.nn.Linear(96, 48)
        self.fc3 = torch.nn.Linear(48, 10)

    def forward(self, x):
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def evaluate(model, x, y):
    model.eval()
    with torch.no_grad():
        o = model(x)
    model.train()
    return F.cross_entropy(o, y).item(), (o.argmax(-1) == y).float().mean().item()


if __name__ == "__main__":
    a = argparse.ArgumentParser()
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--lr", type=float, default=5e-4)
    a.add_argument("--epochs", type=int, default=25)
    a = a.parse_args()
    torch.manual_seed(a.seed)
    d = load_digits()
    x = (d.data - d.data.mean(0)) / (d.data.std(0) + 1e-3)
    xtr, xva, ytr, yva = train_test_split(x, d.target, test_size=0.25, random_state=a.seed, stratify=d.target)
    xtr, xva = torch.tensor(xtr).float().clamp(-4, 4), torch.tensor(xva).float().clamp(-4, 4)
    ytr, yva = torch.tensor(ytr), torch.tensor(yva)
    model = Classifier()
    sgd = torch.optim.SGD(model.parameters(), lr=a.lr)
    for ep in range(a.epochs):
        for idx in torch.randperm(len(xtr)).split(32):
            sgd.zero_grad()
            F.cross_entropy(model(xtr[idx]), ytr[idx]).backward()
            sgd.step()
        l, acc = evaluate(model, xva, yva)
        print(f"[{ep}] val_loss={l:.4f} val_acc={acc:.3f}")
    print("train", evaluate(model, xtr, ytr))
