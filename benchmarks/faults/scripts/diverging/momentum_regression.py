import sys

import numpy as np
import torch

seed = int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[1] == "--seed" else 0
rng = np.random.RandomState(seed)
torch.manual_seed(seed)
n, d = 500, 20
X = rng.randn(n, d)
X[:, 0] = 3 * X[:, 0]
y = X @ rng.randn(d, 1) + 0.1 * rng.randn(n, 1)
X, y = torch.tensor(X, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
model = torch.nn.Linear(d, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.2)
loss_function = torch.nn.MSELoss()
for epoch in range(30):
    order = rng.permutation(n)
    for i in range(0, n, 50):
        batch = order[i : i + 50]
        prediction = model(X[batch])
        loss = loss_function(prediction, y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print("epoch", epoch, "loss", loss.item())
    if not np.isfinite(loss.item()):
        break
