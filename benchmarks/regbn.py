"""What RegBN costs: `python benchmarks/regbn.py [--official PATH] [--device cuda] [--threads 2] [--dense]`

Every comparison is inside one run: the candidates take turns, and the medians are compared. `svd` is a plain version
of our own (thin singular value decomposition, bisection, dense projection). `floor` does only what a layer built
this way cannot leave out, forward: each product, decomposition and norm once, with no root, no rule and no check. The
last row, whose dense projection has 629 million entries, is compared with our own dense closed form (`dense`). With
`--official PATH`, the path of a user's clone of the published module, that is timed too; it runs on a GPU only. Each
line is printed as it is measured."""
import argparse, csv, importlib.util, math, random, resource, subprocess, sys, time
from pathlib import Path
from statistics import median
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18
from mmbalance.layers.regbn import RegBN
from mmbalance.ridge import fit_multiplier, gram, ridge_inverse, spectrum

rows = [(50, (512,), (64,7,7)), (50, (1,28,28), (3,28,28)), (64, (512,), (512,)), (256, (512,), (512,)), (64, (512,7,7), (512,7,7))]
large = 2**26  # entries of W above which the comparison is with the dense closed form

class SVDRegBN(nn.Module):
    "RegBN written down plainly: decompose, bisect, build W, move the running W"
    def __init__(self, f_shape, g_shape):
        super().__init__()
        self.register_buffer('W', torch.zeros(math.prod(g_shape), math.prod(f_shape)))
        self.register_buffer('moments', torch.zeros(2))

    def forward(self, f, g):
        x,z = f.flatten(1),g.flatten(1)
        U,S,Vh = torch.linalg.svd(z, full_matrices=False)
        with torch.no_grad():
            lo,hi = S.new_zeros(()),S.square().sum()*len(S)
            for _ in range(60):
                lam = (lo+hi)/2
                above = (S**2/(S**2+lam)).square().sum()>1
                lo,hi = torch.where(above, lam, lo),torch.where(above, hi, lam)
        W = Vh.mT @ ((S/(S**2+lam))[:,None]*(U.mT@x))
        with torch.no_grad():
            d = (self.W-W).abs().mean()
            self.moments.lerp_(torch.stack([d, d**2]), .01)
            self.W.lerp_(W, .02*(self.moments[0]/.1/(self.moments[1]/.01).sqrt()).clamp(max=1).item())
        return F.layer_norm((x-z@W).view_as(f), f.shape[1:]), F.layer_norm(g, g.shape[1:])

class Floor(nn.Module):
    "The matrix products, decompositions and output norms of a forward pass, and nothing else; its result is of no use"
    def __init__(self, f_shape, g_shape, rank=32):
        super().__init__()
        n,m = math.prod(f_shape),math.prod(g_shape)
        self.dense = m*n<=large
        for k,size in (dict(W=(m, n)) if self.dense else dict(left=(m, rank), right=(rank, n))).items(): self.register_buffer(k, torch.zeros(size))

    @torch.no_grad()
    def forward(self, f, g):
        x,z = f.flatten(1),g.flatten(1)
        K = z.double()
        K = K@K.mT
        torch.linalg.eigvalsh(K)
        new = torch.cholesky_inverse(torch.linalg.cholesky_ex(K)[0]).to(x.dtype)@x
        if self.dense: self.W.lerp_(z.mT@new, .02)
        else: self.move(z.mT, new)
        return F.layer_norm(new.view_as(f), f.shape[1:]), F.layer_norm(g, g.shape[1:])

    def move(self, left, right):
        "The inner products of old and new factors, two decompositions, and the new factors"
        self.left.mT@self.left, self.left.mT@left, self.right@self.right.mT, self.right@right.mT, right@right.mT
        rank = len(self.right)
        H = torch.rand(2, rank+len(right), rank+len(right), dtype=torch.float64, device=left.device)
        Q = torch.linalg.eigh(H)[1][0,:,:rank].to(left.dtype)  # of any symmetric matrices of that size
        self.left,self.right = (self.left@Q[:rank]).addmm_(left, Q[rank:]),(Q[:rank].mT@self.right).addmm_(Q[rank:].mT, right)

def published(path, f_shape, g_shape):
    "The published module from a user's clone, called as its README says"
    spec = importlib.util.spec_from_file_location('published_regbn', Path(path)/'RegBN.py' if Path(path).is_dir() else path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    layer = module.RegBN(f_num_channels=f_shape[0], g_num_channels=g_shape[0], f_layer_dim=list(f_shape[1:]), g_layer_dim=list(g_shape[1:]))
    return lambda f,g: layer(f, g, is_training=True, n_epoch=0, steps_per_epoch=100)

def candidates(f_shape, g_shape, device, official=None, dense=False):
    n,m = math.prod(f_shape),math.prod(g_shape)
    res = dict(ours=RegBN(f_shape, g_shape).to(device).train(), floor=Floor(f_shape, g_shape).to(device))
    if m*n>large: return res | (dict(dense=RegBN(f_shape, g_shape, rank=0).to(device).train()) if dense else {})
    res |= dict(fixed=RegBN(f_shape, g_shape, adaptive=False).to(device).train(), low_rank=RegBN(f_shape, g_shape, rank=32).to(device).train(), svd=SVDRegBN(f_shape, g_shape).to(device).train())
    if official: res['published'] = published(official, f_shape, g_shape)
    return res

def seconds(layer, f, g, backward):
    "Wall time of one call"
    def sync(): torch.cuda.synchronize() if f.is_cuda else None
    sync(); start = time.perf_counter()
    f_out,g_out = layer(f, g)
    if backward: (f_out.square().sum()+g_out.square().sum()).backward()
    sync()
    return time.perf_counter()-start

def compare(layers, batch, f_shape, g_shape, device, backward, repeats):
    "Median seconds of each layer; they take turns, in an order drawn anew for each round"
    if backward: layers = {k: o for k,o in layers.items() if not isinstance(o, Floor)}
    f,g = (torch.randn(batch, *o, device=device, requires_grad=backward) for o in (f_shape, g_shape))
    times = {k: [] for k in layers}
    for i in range(repeats+2):
        for k,o in random.sample(list(layers.items()), len(layers)):
            t = seconds(o, f, g, backward)
            if i>=2: times[k].append(t)
            f.grad = g.grad = None
    return {k: median(v) for k,v in times.items()}

def step_share(device, batch=32, size=128, repeats=5):
    "Seconds of a training step of two ResNet-18 encoders, and what RegBN on their 512 features takes of it"
    encoders = nn.ModuleList([resnet18(num_classes=10) for _ in range(2)]).to(device)
    for o in encoders: o.fc = nn.Identity()
    head,layer = nn.Linear(1024, 10).to(device),RegBN(512, 512).to(device)
    opt = torch.optim.SGD([*encoders.parameters(), *head.parameters()], 1e-3)
    xs,y = torch.randn(2, batch, 3, size, size, device=device),torch.randint(10, (batch,), device=device)
    def step(f, g): # f and g only stand for the inputs of `seconds`
        loss = F.cross_entropy(head(torch.cat([o(x) for o,x in zip(encoders, xs)], 1)), y)
        opt.zero_grad(); loss.backward(); opt.step()
        return loss.detach(),loss.detach()
    f,g = (torch.randn(batch, 512, device=device, requires_grad=True) for _ in range(2))
    steps,layers = [],[]
    for i in range(repeats+1):
        t = seconds(step, f, g, False),median(seconds(layer, f, g, True) for _ in range(5))
        if i: steps.append(t[0]); layers.append(t[1])
    return median(steps),median(layers)

def cholesky_root(K, steps=10):
    "The multiplier without eigenvalues: Newton's method on the norm of K (K + lam I)^-1, each step a Cholesky factorisation"
    lam = K.trace()*0
    for _ in range(steps):
        P = ridge_inverse(K, lam + 1e-12*K.trace())
        H = K@P
        size,slope = H.square().sum(),(H@P*H).sum()
        lam = lam + (size-1)*size/((size.sqrt()+1)*slope)
    return lam

def roots(device, batch, n=512, repeats=20):
    "Seconds of the eigenvalues and Newton's method on them, and of the version without eigenvalues"
    g = torch.randn(batch, n, device=device)
    K = gram(g)
    ways = dict(eigenvalues=lambda f,g: (fit_multiplier(spectrum(torch.linalg.eigvalsh(K)))[0],)*2, cholesky=lambda f,g: (cholesky_root(K),)*2)
    return compare(ways, batch, (1,), (1,), device, False, repeats)

def peak(kind, device):
    "Peak memory in GB of ten training steps of the last row, in a process of its own"
    code = f"import benchmarks.regbn as o; o.steps({kind!r}, {device!r})"
    return float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]).stdout)

def steps(kind, device):
    batch,f_shape,g_shape = rows[-1]
    layer = RegBN(f_shape, g_shape, rank=0 if kind=='dense' else None).to(device)
    for _ in range(10): seconds(layer, torch.randn(batch, *f_shape, device=device, requires_grad=True), torch.randn(batch, *g_shape, device=device, requires_grad=True), True)
    print(torch.cuda.max_memory_allocated()/1e9 if 'cuda' in device else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--official'); p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--threads', type=int, default=2); p.add_argument('--repeats', type=int, default=20); p.add_argument('--out', default=Path(__file__).with_suffix('.csv'))
    p.add_argument('--dense', action='store_true', help='the dense closed form of the last row, too: 6 GB of memory')
    a = p.parse_args()
    torch.set_num_threads(a.threads); torch.manual_seed(0)
    for kind in ('ours','dense') if a.dense else ('ours',): print(f'peak memory of the last row, {kind}: {peak(kind, a.device):.2f} GB', flush=True)  # first: a process starts with its parent's peak
    table = []
    for batch,f_shape,g_shape in rows:
        big = math.prod(f_shape)*math.prod(g_shape)>large
        layers = candidates(f_shape, g_shape, a.device, a.official, a.dense)
        for backward in False, True:
            res = compare(layers, batch, f_shape, g_shape, a.device, backward, 15 if big else a.repeats)
            table += [dict(batch=batch, f='x'.join(map(str, f_shape)), g='x'.join(map(str, g_shape)), backward=backward, layer=k,
                ms=f'{v*1e3:.3g}', times_ours=f'{v/res["ours"]:.3g}') for k,v in res.items()]
            for o in table[-len(res):]: print(*o.values(), sep='\t', flush=True)
    for batch in 64,256: print(f'multiplier of {batch} x 512 in ms:', {k: f'{v*1e3:.2f}' for k,v in roots(a.device, batch).items()}, flush=True)
    step,layer = step_share(a.device)
    print(f'a step of two ResNet-18 encoders: {step*1e3:.0f} ms; RegBN on their features: {layer*1e3:.2f} ms, {layer/step:.2%}', flush=True)
    if a.out:
        with open(a.out, 'w', newline='') as f:
            w = csv.DictWriter(f, table[0]); w.writeheader(); w.writerows(table)

if __name__=='__main__': main()
