"""A small GPT on the text of Python's licence."""

import argparse
import site

import torch
import torch.nn as nn
import torch.nn.functional as F

license_text = (
    "".join(str(part) for part in __builtins__.__dict__["license"]._Printer__data)
    if hasattr(__builtins__, "__dict__")
    else ""
)
if len(license_text) < 3000:
    license_text = (site.__doc__ or "") * 20
text = license_text[:20000]
chars = sorted(set(text))
data = torch.tensor([chars.index(c) for c in text])


class CausalAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = CausalAttention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    def __init__(self, vocab, dim=48, heads=4, depth=2, context=32):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, dim), nn.Embedding(context, dim)
        self.blocks = nn.Sequential(*[Block(dim, heads) for _ in range(depth)])
        self.ln, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocab, bias=False)

    def forward(self, idx):
        x = self.tok(idx) + self.pos(torch.arange(idx.shape[1]))
        return self.head(self.ln(self.blocks(x)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = GPT(len(chars))
    attention = [p for n, p in model.named_parameters() if "qkv" in n]
    rest = [p for n, p in model.named_parameters() if "qkv" not in n]
    optimizer = torch.optim.Adam([{"params": rest, "lr": 1e-3}, {"params": attention, "lr": 3e-2}], betas=(0.9, 0.95))
    for it in range(300):
        start = torch.randint(len(data) - 33, (12,))
        batch = data[start[:, None] + torch.arange(33)]
        logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, len(chars)), batch[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if it % 30 == 29:
            print(f"iteration {it + 1}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
