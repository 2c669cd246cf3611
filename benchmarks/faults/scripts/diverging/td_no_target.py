import argparse

import torch
import torch.nn as nn


class Chain:
    """A walk on a line of states whose features grow along it."""

    def __init__(self, n=12):
        self.n = n
        self.features = torch.stack([torch.linspace(0.5, 2.0, n) * (k + 1) / 3 for k in range(3)], 1)

    def sample(self, size):
        s = torch.randint(0, self.n - 1, (size,))
        return self.features[s], 0.1 * torch.randn(size, 1), self.features[self.n - 1].expand(size, -1)


class Agent:
    def __init__(self, lr):
        self.value = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
        self.optimizer = torch.optim.RMSprop(self.value.parameters(), lr=lr)

    def update(self, s, r, s2, gamma=1.05):
        with torch.no_grad():
            y = r + gamma * self.value(s2)
        loss = (self.value(s) - y).pow(2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    torch.manual_seed(ap.parse_args().seed)
    env, agent = Chain(), Agent(3e-3)
    for step in range(800):
        loss = agent.update(*env.sample(64))
        if step % 100 == 0:
            print(f"{step} td error {loss:.4f}")
