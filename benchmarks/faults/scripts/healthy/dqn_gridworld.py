"""Q-learning on a small grid, with a replay buffer and a target network."""

import argparse
import copy
import random
from collections import deque

import torch
from torch import nn

SIZE = 4
MOVES = [(0, 1), (0, -1), (1, 0), (-1, 0)]


def encode(pos):
    v = torch.zeros(SIZE * SIZE)
    v[pos[0] * SIZE + pos[1]] = 1.0
    return v


def step(pos, a):
    r = min(max(pos[0] + MOVES[a][0], 0), SIZE - 1)
    c = min(max(pos[1] + MOVES[a][1], 0), SIZE - 1)
    done = (r, c) == (SIZE - 1, SIZE - 1)
    return (r, c), (1.0 if done else -0.02), done


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    q = nn.Sequential(nn.Linear(SIZE * SIZE, 48), nn.ReLU(), nn.Linear(48, 4))
    target = copy.deepcopy(q)
    opt = torch.optim.Adam(q.parameters(), lr=2e-3)
    memory = deque(maxlen=2000)
    pos, episode_return = (0, 0), 0.0
    returns = []
    for t in range(1500):
        eps = max(0.1, 1 - t / 700)
        with torch.no_grad():
            a = random.randrange(4) if random.random() < eps else int(q(encode(pos)).argmax())
        nxt, reward, done = step(pos, a)
        memory.append((encode(pos), a, reward, encode(nxt), float(done)))
        episode_return += reward
        pos = nxt
        if done:
            returns.append(episode_return)
            pos, episode_return = (0, 0), 0.0
        if len(memory) >= 64:
            s, act, r, s2, d = zip(*random.sample(memory, 32))
            s, s2 = torch.stack(s), torch.stack(s2)
            act, r, d = torch.tensor(act), torch.tensor(r), torch.tensor(d)
            with torch.no_grad():
                goal = r + 0.95 * (1 - d) * target(s2).max(1).values
            loss = nn.functional.smooth_l1_loss(q(s).gather(1, act[:, None]).squeeze(1), goal)
            opt.zero_grad()
            loss.backward()
            opt.step()
        if t % 50 == 0:
            target.load_state_dict(q.state_dict())
        if t % 300 == 299:
            print(t, "mean return of last episodes", sum(returns[-10:]) / max(len(returns[-10:]), 1))


main()
