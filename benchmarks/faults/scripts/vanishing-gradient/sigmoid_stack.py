import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--depth", type=int, default=9)
parser.add_argument("--width", type=int, default=48)
args = parser.parse_args()
torch.manual_seed(args.seed)

digits = load_digits()
X = torch.tensor(digits.data, dtype=torch.float32)
X = (X - X.mean()) / X.std()
Y = torch.tensor(digits.target)
train, test = random_split(TensorDataset(X, Y), [1400, 397])
loader = DataLoader(train, batch_size=50, shuffle=True)

act = nn.Sigmoid
layers = [nn.Linear(64, args.width), act()]
for _ in range(args.depth - 1):
    layers += [nn.Linear(args.width, args.width), act()]
layers.append(nn.Linear(args.width, 10))
model = nn.Sequential(*layers)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

for epoch in range(20):
    tot = 0
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        tot += loss.item()
    print(f"epoch {epoch} loss {tot / len(loader):.4f}")
print("first/last layer grad norm", model[0].weight.grad.norm().item(), model[-1].weight.grad.norm().item())
xt, yt = next(iter(DataLoader(test, batch_size=397)))
with torch.no_grad():
    print("test acc", (model(xt).argmax(1) == yt).float().mean().item())
