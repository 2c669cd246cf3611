"""Advantage actor-critic in a corridor; policy and value share a trunk."""

import argparse

import torch
from torch import nn
from torch.distributions import Categorical


class Corridor:
    """Walk right along `length` cells; each step costs a little, the end pays 1."""

    def __init__(self, length=8):
        self.length = length

    def reset(self):
        self.at, self.time = 0, 0
        return self.observe()

    def observe(self):
        x = torch.zeros(self.length)
        x[self.at] = 1.0
        return x

    def step(self, action):
        self.at = max(0, min(self.length - 1, self.at + (1 if action == 1 else -1)))
        self.time += 1
        done = self.at == self.length - 1
        return self.observe(), 1.0 if done else -0.02, done or self.time >= 40


class ActorCritic(nn.Module):
    def __init__(self, cells):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(cells, 64), nn.Tanh())
        self.pi, self.v = nn.Linear(64, 2), nn.Linear(64, 1)

    def forward(self, obs):
        h = self.trunk(obs)
        return Categorical(logits=self.pi(h)), self.v(h).squeeze(-1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.manual_seed(seed)
    env, agent = Corridor(), ActorCritic(8)
    opt = torch.optim.RMSprop(agent.parameters(), lr=3e-3)
    for episode in range(250):
        obs, done = env.reset(), False
        log_probs, values, rewards, entropies = [], [], [], []
        while not done:
            dist, value = agent(obs)
            action = dist.sample()
            obs, reward, done = env.step(action.item())
            log_probs.append(dist.log_prob(action))
            entropies.append(dist.entropy())
            values.append(value)
            rewards.append(reward)
        returns, g = [], 0.0
        for r in reversed(rewards):
            g = r + 0.97 * g
            returns.insert(0, g)
        returns, values = torch.tensor(returns), torch.stack(values)
        advantage = (returns - values).detach()
        actor = -(torch.stack(log_probs) * advantage).mean() - 0.01 * torch.stack(entropies).mean()
        critic = nn.functional.smooth_l1_loss(values, returns)
        opt.zero_grad()
        (actor + 0.5 * critic).backward()
        opt.step()
        if episode % 50 == 0:
            print(episode, len(rewards), sum(rewards))


if __name__ == "__main__":
    main()
