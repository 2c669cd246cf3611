import argparse

import torch
import torch.nn as nn


class Policy(nn.Module):
    def __init__(self, d, arms):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d, 32), nn.Tanh(), nn.Linear(32, arms))

    def forward(self, x):
        return torch.distributions.Categorical(logits=self.net(x))


class Bandit:
    def __init__(self, d=6, arms=5, seed=0):
        self.g = torch.Generator().manual_seed(seed)
        self.w = torch.randn(d, arms, generator=self.g)
        self.d = d

    def context(self, n):
        return torch.randn(n, self.d, generator=self.g)

    def mean(self, x):
        return torch.tanh(x @ self.w)

    def pull(self, x, a):
        m = self.mean(x).gather(1, a[:, None]).squeeze(1)
        return m + 0.3 * torch.randn(len(x), generator=self.g)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=0)
    seed = ap.parse_args().seed
    torch.manual_seed(seed)
    env = Bandit(seed=seed)
    policy = Policy(6, 5)
    opt = torch.optim.Adam(policy.parameters(), lr=5e-3)
    baseline = 0.0
    for step in range(1, 1001):
        x = env.context(128)
        dist = policy(x)
        a = dist.sample()
        r = env.pull(x, a)
        adv = r - baseline
        loss = -(dist.log_prob(a) * adv).mean() - 0.01 * dist.entropy().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        baseline += 0.05 * (r.mean().item() - baseline)
        if step % 100 == 0:
            with torch.no_grad():
                x = env.context(1000)
                m = env.mean(x)
                got = m.gather(1, policy(x).probs.argmax(1, keepdim=True)).mean().item()
            print(
                f"{step} reward {r.mean().item():.3f} greedy {got:.3f} best possible {m.max(1).values.mean().item():.3f}"
            )


main()
