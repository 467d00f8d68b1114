#!/usr/bin/env python3
"""Times the official baseline shape under PyTorch: forward, backward and AdamW in float32.

The peer of `birdie bench train`: the same 17,059,912 parameters, windows of 1,024 and
16,384 tokens a step (in micro-batches of 4 windows). AdamW stands in for Muon, which
only makes the peer's step cheaper. Prints one JSON object.
"""
import argparse
import json
import math
import time

import torch
import torch.nn.functional as F

V, D, L, H, G, HID, T = 1024, 512, 9, 8, 4, 1024, 1024
W = D // H


def norm(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 2.0 ** -23)


class Baseline(torch.nn.Module):
    def __init__(self):
        super().__init__()
        def p(*shape, std=0.02):
            return torch.nn.Parameter(torch.randn(*shape) * std)
        self.emb = p(V, D)
        self.q, self.o = p(L, D, D), p(L, D, D)
        self.k, self.v = p(L, G * W, D), p(L, G * W, D)
        self.fc, self.proj = p(L, HID, D), p(L, D, HID)
        self.gain = torch.nn.Parameter(torch.full((L, H), 1.5))
        self.attn_scale, self.mlp_scale = torch.nn.Parameter(torch.ones(L, D)), torch.nn.Parameter(torch.ones(L, D))
        self.mix = torch.nn.Parameter(torch.stack([torch.ones(L, D), torch.zeros(L, D)], 1))
        self.skip = torch.nn.Parameter(torch.ones(L // 2, D))
        angle = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(0, W, 2) / W)
        self.register_buffer("cos", angle.cos()), self.register_buffer("sin", angle.sin())
        self.register_buffer("mask", torch.full((T, T), -math.inf).triu(1))

    def rope(self, x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos + b * self.sin, b * self.cos - a * self.sin], -1)

    def block(self, i, x, x0):
        B = x.shape[0]
        x = self.mix[i, 0] * x + self.mix[i, 1] * x0
        n = norm(x)
        q, k, v = (F.linear(n, w[i]).view(B, T, -1, W).transpose(1, 2) for w in (self.q, self.k, self.v))
        q, k = self.rope(norm(q)) * self.gain[i][:, None, None], self.rope(norm(k))
        k, v = (t.repeat_interleave(H // G, 1) for t in (k, v))
        y = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(W) + self.mask, -1) @ v
        x = x + self.attn_scale[i] * F.linear(y.transpose(1, 2).reshape(B, T, D), self.o[i])
        return x + self.mlp_scale[i] * F.linear(F.relu(F.linear(norm(x), self.fc[i])).square(), self.proj[i])

    def forward(self, tokens, targets):
        x = x0 = norm(self.emb[tokens])
        stack = []
        for i in range(L // 2):
            x = self.block(i, x, x0)
            stack.append(x)
        for j in range(L - L // 2):
            if stack:
                x = x + self.skip[j] * stack.pop()
            x = self.block(L // 2 + j, x, x0)
        logits = 30 * torch.tanh(F.linear(norm(x), self.emb) / 30)
        return F.cross_entropy(logits.view(-1, V), targets.view(-1))


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("--threads", type=int, default=0)
    a.add_argument("--steps", type=int, default=1)
    a.add_argument("--micro", type=int, default=4, help="windows per micro-batch")
    a = a.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    m = Baseline()
    opt = torch.optim.AdamW(m.parameters(), lr=1e-3)
    times = []
    for step in range(a.steps + 1):  # step 0 warms up
        start = time.perf_counter()
        opt.zero_grad()
        for _ in range(16 // a.micro):
            x, y = torch.randint(V, (2, a.micro, T))
            (m(x, y) * a.micro / 16).backward()
        opt.step()
        times.append(time.perf_counter() - start)
    mean = sum(times[1:]) / a.steps
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(),
                      "parameters": sum(p.numel() for p in m.parameters()),
                      "seconds_per_step": mean, "tokens_per_s": 16 * T / mean}))


if __name__ == "__main__":
    main()
