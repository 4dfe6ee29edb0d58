"What holds of RegBN: the root, gradients, bad batches, state, other dtypes, compiling"
import copy, io, math, pickle, subprocess, sys, warnings
from pathlib import Path
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from mmbalance.layers.heads import ConcatHead, SumHead
from mmbalance.fusion import RegBNFusion, RegBNStages
from mmbalance.layers.regbn import RegBN, RegBNPairs, set_epoch
from mmbalance.ridge import Spectrum, fit_multiplier, gram, newton_root, ridge_projection, spectrum, weight_multiplier
from mmbalance.running import low_rank_mean, move_mean_
import mmbalance.compat as compat

def pair(batch=16, n=6, m=5, dtype=torch.float32, seed=0):
    "Features with a linear dependence"
    gen = torch.Generator().manual_seed(seed)
    def randn(*size): return torch.randn(*size, generator=gen, dtype=dtype)
    g = randn(batch, m)
    return g@randn(m, n) + randn(batch, n),g

def state(o): return {k: v.clone() for k,v in o.state_dict().items()}

# The root

def spectra(rank, n, kind, rng):
    "Eigenvalues, largest last (n, rank)"
    if kind=='24 decades':       e = 10**rng.uniform(-24, 0, (n, rank))
    elif kind=='near rank one':  e = np.concatenate([10**rng.uniform(-24, -10, (n, rank-1)), np.ones((n, 1))], 1)
    elif kind=='equal':          e = np.ones((n, rank))*10**rng.uniform(-12, 12, (n, 1))
    elif kind=='one above many': e = np.concatenate([10**rng.uniform(-24, 0, (n, 1))*np.ones((n, rank-1)), np.ones((n, 1))], 1)
    elif kind=='equal in groups': e = 10**rng.choice([-24., -18, -12, -6, -3, 0], (n, rank))
    else:                        e = rng.gamma(.5, 1, (n, rank))
    return np.sort(e, -1)

def bisect(excess, e):
    "The root in extended precision, `excess` falls through 0 there"
    lo,hi = (np.full(len(e), o, np.longdouble)+np.log(e[:,-1].astype(np.longdouble)) for o in (-80., 8.))
    for _ in range(90):
        mid = (lo+hi)/2
        above = excess(np.exp(mid))>0
        lo,hi = np.where(above, mid, lo),np.where(above, hi, mid)
    return np.exp(lo)

@pytest.mark.parametrize('kind', ['24 decades', 'near rank one', 'one above many', 'equal', 'equal in groups', 'gamma'])
@pytest.mark.parametrize('rank', [2, 3, 8, 64, 512])
def test_ten_thousand_roots(rank, kind):
    "30 kinds of 500 spectra each; the error asked for is 1e-6"
    e = spectra(rank, 500, kind, np.random.default_rng(rank))
    x,top = e.astype(np.longdouble),e[:,-1].astype(np.longdouble)
    want = bisect(lambda lam: ((x[:,:-1]/(x[:,:-1]+lam[:,None]))**2).sum(1) - lam*(2*top+lam)/(top+lam)**2, e)
    e = torch.tensor(e)
    lam,found = fit_multiplier(Spectrum(e, torch.ones_like(e, dtype=bool), e.sqrt()))
    assert found.all() and np.abs(lam.numpy()/want-1).max()<1e-12

@pytest.mark.parametrize('kind', ['24 decades', 'equal in groups', 'gamma'])
def test_roots_of_the_papers_equation(kind):
    rng = np.random.default_rng(0)
    e = spectra(8, 500, kind, rng)
    energy = 10**rng.uniform(-6, 6, e.shape)
    keep = (energy/e).sum(1)>1
    e,energy = e[keep],energy[keep]
    x,a = e.astype(np.longdouble),np.sqrt(e.astype(np.longdouble)*energy)
    lo,hi = np.full(len(e), -80, np.longdouble),np.full(len(e), 30, np.longdouble)
    for _ in range(100):
        mid = (lo+hi)/2
        above = ((a/(x+np.exp(mid)[:,None]))**2).sum(1)>1
        lo,hi = np.where(above, mid, lo),np.where(above, hi, mid)
    e = torch.tensor(e)
    lam,_ = weight_multiplier(Spectrum(e, torch.ones_like(e, dtype=bool), e.sqrt()), torch.tensor(energy))
    assert (lam>0).all() and np.abs(lam.numpy()/np.exp(lo)-1).max()<1e-6

def test_scale():
    "g times a: the multiplier times a², what is left of f as it was"
    f,g = pair(dtype=torch.float64)
    p = ridge_projection(f, g)
    for a in 1e-12,1e-3,1e3,1e12:
        q = ridge_projection(f, a*g)
        assert q.found; assert_close(q.lam/a**2, p.lam); assert_close(q.rest(), p.rest())

def test_float64_gram_of_nearly_rank_one_features():
    "A float32 Gram matrix gets the multiplier wrong, ours does not"
    f,g = pair(64, 32, 32)
    g = g[:,:1]@torch.ones(1, 32) + 1e-5*g
    want = fit_multiplier(spectrum(torch.linalg.eigvalsh(gram(g.double().mT))))[0]
    low = fit_multiplier(spectrum(torch.linalg.eigvalsh((g.mT@g).double())))[0]
    assert abs(ridge_projection(f, g).lam/want-1)<1e-6 and abs(low/want-1)>.01

@pytest.mark.parametrize('batch,m', [(8, 5), (5, 8), (6, 6)])
@pytest.mark.parametrize('kwargs', [{}, dict(constraint='weight'), dict(sigma_thr=.3, sigma_min=1e-3)])
def test_primal_is_dual(batch, m, kwargs):
    "W from the definition, by a singular value decomposition"
    f,g = pair(batch, 4, m, torch.float64)
    p = ridge_projection(f, g, **kwargs)
    U,S,Vh = torch.linalg.svd(g, full_matrices=False)
    s = torch.where(S>kwargs.get('sigma_thr', 0)*S[0], S, kwargs.get('sigma_min', 0.))
    assert_close(p.left@p.right, Vh.mT@((s/(s**2+p.lam))[:,None]*(U.mT@f)))
    assert_close(p.rest(), f-g@(p.left@p.right)); assert_close(p.fit(g[:3].clone()), g[:3]@(p.left@p.right))
    size = (p.left@p.right).norm() if 'constraint' in kwargs else (s*S/(s**2+p.lam)).norm()
    assert_close(size, torch.ones_like(size))

# Gradients

@pytest.mark.parametrize('batch,m', [(7, 4), (4, 7)])
@pytest.mark.parametrize('kwargs', [{}, dict(constraint='weight'), dict(sigma_thr=.3), dict(sigma_thr=.3, sigma_min=.05)])
def test_gradient_with_the_multiplier_handed_in(batch, m, kwargs):
    f,g = (o.requires_grad_() for o in pair(batch, 3, m, torch.float64))
    lam = ridge_projection(f, g, **kwargs).lam.detach()
    assert torch.autograd.gradcheck(lambda f,g: ridge_projection(f, g, lam=lam, **kwargs).rest(), (f, g))

def test_second_derivative():
    f,g = (o.requires_grad_() for o in pair(4, 3, 5, torch.float64))
    lam = ridge_projection(f, g).lam.detach()
    assert torch.autograd.gradgradcheck(lambda f,g: ridge_projection(f, g, lam=lam).rest(), (f, g))

@pytest.mark.parametrize('batch,m', [(7, 4), (4, 7)])
@pytest.mark.parametrize('constraint', ['fit', 'weight'])
def test_gradient_of_the_whole(batch, m, constraint):
    f,g = (o.requires_grad_() for o in pair(batch, 3, m, torch.float64))
    assert ridge_projection(f, g, constraint).lam>0
    assert torch.autograd.gradcheck(lambda f,g: ridge_projection(f, g, constraint, implicit=True).rest(), (f, g))

def test_layer_gradient_at_equal_singular_values():
    f,g = pair(16, 5, 4)
    g = torch.eye(4).repeat(4, 1).requires_grad_()
    for kwargs in {}, dict(sigma_thr=.5), dict(constraint='weight'), dict(implicit=True):
        g.grad = None
        RegBN(5, 4, **kwargs)(f, g)[0].square().sum().backward()
        assert g.grad.isfinite().all() and g.grad.abs().max()>0

def test_leaves_no_gradient_behind():
    "The published search writes into the network in the forward pass"
    f,g = (o.requires_grad_() for o in pair())
    layer = RegBN(6, 5, affine=True, normalize_input=True)
    layer(f, g)
    assert f.grad is None and g.grad is None and all(o.grad is None for o in layer.parameters())
    assert not any(o.requires_grad for o in layer.buffers())

# Bad batches

bad = {'nan in f': lambda f,g: (f.clone().index_fill_(0, torch.tensor([1]), math.nan), g), 'nan in g': lambda f,g: (f, g.clone().index_fill_(0, torch.tensor([1]), math.nan)),
    'inf in f': lambda f,g: (f.clone().index_fill_(0, torch.tensor([1]), math.inf), g), 'inf in g': lambda f,g: (f, g.clone().index_fill_(0, torch.tensor([1]), -math.inf)),
    'huge': lambda f,g: (f, g*1e30)}
flat = {'zero g': lambda f,g: (f, g*0), 'constant g': lambda f,g: (f, torch.ones_like(g)), 'rank one': lambda f,g: (f, g[:,:1]@torch.ones_like(g[:1])),
    'batch of one': lambda f,g: (f[:1], g[:1]), 'tiny g': lambda f,g: (f, g*1e-20)}

@pytest.mark.parametrize('kwargs', [{}, dict(normalize_input=True), dict(normalize_input=True, consistent=True), dict(rank=3), dict(constraint='weight', sigma_thr=.01), dict(implicit=True)], ids=str)
@pytest.mark.parametrize('case', [*bad, *flat])
def test_bad_batch(case, kwargs):
    "f is only normalised, the running state stays, the batch is counted, gradients of good rows are finite, the next batch is as ever"
    f,g = pair(16, 6, 48)
    layer = RegBN(6, (3,4,4), **kwargs)
    good = lambda: layer(f, g.view(16, 3, 4, 4))[0]
    good()
    before = state(layer)
    x,z = (bad|flat)[case](f, g)
    x.requires_grad_()
    out,_ = layer(x, z.view(-1, 3, 4, 4))
    if case in flat and kwargs.get('constraint')=='weight' and case in ('constant g', 'rank one', 'batch of one'): return  # the paper's equation has a root there
    if case=='tiny g' and kwargs.get('normalize_input'): return  # normalised, it is not tiny
    if not kwargs.get('consistent') or case in bad: assert_close(out, F.layer_norm(x, (6,)), equal_nan=True)
    out[torch.arange(len(out))!=1].square().sum().backward()
    assert x.grad[torch.arange(len(x))!=1].isfinite().all()
    counts = layer.batches-before.pop('batches')
    assert counts.tolist()==([0,1,0] if case in bad else [0,0,1])
    for k,v in before.items(): assert_close(layer.state_dict()[k], v, rtol=0, atol=0)
    assert good().isfinite().all() and layer.batches[0]==2

def test_never_switched_off():
    "After a NaN the layer goes on as if the batch had not been"
    f,g = pair()
    a,b = RegBN(6, 5),RegBN(6, 5)
    a(f*math.nan, g)
    for o in a,b: o(f, g); o.eval()
    assert_close(a(f, g), b(f, g), rtol=0, atol=0)

def test_overflow_in_half_precision_is_a_bad_batch():
    f,g = pair()
    layer = RegBN(6, 5)
    layer((f*1e6).half(), g.half())
    assert layer.batches.tolist()==[0,1,0]

# Types, shapes, devices

shapes = [((8,), (6,)), ((2,3,3), (5,)), ((1,6,6), (3,6,6)), ((4,5), (6,7)), ((2,3,2,2), (2,2,2,2)), ((4,), (3,2))]
@pytest.mark.parametrize('batch', [3, 64])
@pytest.mark.parametrize('f_shape,g_shape', shapes, ids=str)
@pytest.mark.parametrize('kwargs', [{}, dict(normalize_input=True, affine=True), dict(normalize_input=True, consistent=True), dict(rank=2)], ids=str)
def test_any_rank_and_batch(f_shape, g_shape, batch, kwargs):
    torch.manual_seed(0)
    layer = RegBN(f_shape, g_shape, **kwargs)
    f,g = torch.randn(batch, *f_shape),torch.randn(batch, *g_shape)
    for mode in True,False:
        f_out,g_out = layer.train(mode)(f, g)
        assert f_out.shape==f.shape and g_out.shape==g.shape and f_out.isfinite().all()

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    "Computed in float32, and returned in the type that came"
    f,g = (o.to(dtype) for o in pair())
    a,b = RegBN(6, 5),RegBN(6, 5)
    for mode in True,False:
        out,want = a.train(mode)(f, g),b.train(mode)(f.float(), g.float())
        assert out[0].dtype==out[1].dtype==dtype
        for o,w in zip(out, want): assert_close(o, w.to(dtype))
    assert_close(a.W, b.W, rtol=0, atol=0)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_island(dtype):
    "Under autocast nothing inside is in half precision"
    f,g = pair()
    a,b = RegBN(6, 5),RegBN(6, 5)
    for mode in True,False:
        with torch.autocast('cpu', dtype=dtype): out = a.train(mode)(f, g)
        for o,w in zip(out, b.train(mode)(f, g)): assert_close(o, w, rtol=0, atol=0)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a graphics card')
@pytest.mark.parametrize('kwargs', [{}, dict(normalize_input=True, consistent=True), dict(rank=3), dict(constraint='weight'), dict(sigma_thr=.1)], ids=str)
def test_cuda_is_cpu(kwargs):
    f,g = pair()
    a,b = RegBN(6, 5, **kwargs),RegBN(6, 5, **kwargs).cuda()
    for mode in True,False: assert_close(b.train(mode)(f.cuda(), g.cuda())[0].cpu(), a.train(mode)(f, g)[0], rtol=1e-4, atol=1e-5)
    b.train()(f.cuda()*math.nan, g.cuda())
    assert b.batches.tolist()==[1, 1, 0]

def test_double_in_evaluation_before_training():
    f,g = pair(dtype=torch.float64)
    layer = RegBN(6, 5).eval()
    assert layer(f, g)[0].dtype==torch.float64
    layer.train()(f, g)
    assert layer.W.dtype==torch.float32

def test_channels_last():
    f,g = torch.randn(8, 3, 4, 4),torch.randn(8, 2, 4, 4)
    a,b = RegBN((3,4,4), (2,4,4)),RegBN((3,4,4), (2,4,4))
    assert_close(a(f.to(memory_format=torch.channels_last), g.to(memory_format=torch.channels_last)), b(f, g))

def test_errors_say_what_to_do():
    f,g = pair()
    with pytest.raises(ValueError, match='expects f of shape.*7.*pass f_shape'): RegBN(7, 5)(f, g)
    with pytest.raises(ValueError, match='same batch'): RegBN(6, 5)(f, g[:3])
    with pytest.raises(ValueError, match="'fit' or 'weight'"): RegBN(6, 5, constraint='paper')
    with pytest.raises(ValueError, match='sigma_thr'): RegBN(6, 5, implicit=True, sigma_thr=.1)
    with pytest.raises(ValueError, match='rank=0'): RegBN(6, 5, rank=2, adaptive=True)

# State

def steps(layer, seeds):
    for s in seeds:
        layer.epoch.fill_(s//3)
        layer(*pair(seed=s))
    return layer

@pytest.mark.parametrize('kwargs', [dict(normalize_input=True), dict(rank=3)], ids=str)
def test_resume(kwargs):
    "Six steps, or three, through any kind of copy, and three: the same to the last bit"
    want = steps(RegBN(6, 5, **kwargs), range(6))
    half = steps(RegBN(6, 5, **kwargs), range(3))
    buf = io.BytesIO(); torch.save(half.state_dict(), buf); buf.seek(0)
    loaded = RegBN(6, 5, **kwargs); loaded.load_state_dict(torch.load(buf, weights_only=True))
    for o in loaded, copy.deepcopy(half), pickle.loads(pickle.dumps(half)):
        assert_close(state(steps(o, range(3, 6))), state(want), rtol=0, atol=0)

def test_no_graph_is_kept():
    f,g = (o.requires_grad_() for o in pair())
    layer = RegBN(6, 5)
    for _ in range(3): layer(f, g)
    assert all(o.grad_fn is None for o in layer.buffers())
    copy.deepcopy(layer)

def test_evaluation_changes_nothing():
    layer = steps(RegBN(6, (3,2,2), normalize_input=True, consistent=True), [])
    f,g = torch.randn(9, 6),torch.randn(9, 3, 2, 2)
    layer(f, g); before = state(layer)
    layer.eval()(f, g)
    assert_close(state(layer), before, rtol=0, atol=0)

def test_set_epoch():
    model = nn.Sequential(RegBN(6, 5), nn.ModuleList([RegBN(6, 5)]))
    set_epoch(model, 7)
    assert [o.epoch.item() for o in model.modules() if isinstance(o, RegBN)]==[7, 7]

# The running projection

def test_low_rank_mean_is_the_best():
    "One step against the singular value decomposition of the dense mean"
    torch.manual_seed(0)
    left,right,a,b = torch.randn(30, 4),torch.randn(4, 20),torch.randn(30, 3),torch.randn(3, 20)
    dense = .9*left@right + .1*a@b
    U,S,Vh = torch.linalg.svd(dense)
    L,R = low_rank_mean(left, right, a, b, .1)
    assert_close((dense-L@R).norm(), S[4:].norm(), rtol=1e-3, atol=1e-6)
    assert_close(L.mT@L, torch.eye(4), rtol=0, atol=1e-4)

@pytest.mark.parametrize('size', [(30, 20), (1500, 800)])  # whole, and in pieces
def test_move_mean(size):
    "The running mean against its formula; a step of 0 leaves every bit"
    torch.manual_seed(0)
    W,left,right = torch.randn(size),torch.randn(size[0], 4),torch.randn(4, size[1])
    new,distance = left@right,(W-left@right).abs().mean()
    moved = move_mean_(W.clone(), left, right, lambda d: torch.tensor(.3)*d/distance)
    assert_close(moved, .7*W + .3*new, rtol=1e-4, atol=1e-5)
    assert_close(move_mean_(W.clone(), left, right, torch.tensor(.3)), moved)
    for share in torch.tensor(0.), lambda d: torch.tensor(0.): assert torch.equal(move_mean_(W.clone(), left, right, share), W)

def test_the_benchmark_takes_a_published_module(tmp_path):
    "A file with the published interface stands for a user's clone"
    (tmp_path/'RegBN.py').write_text('from mmbalance.compat import RegBN', encoding='utf-8')
    root = Path(__file__).parents[1]
    code = f"import benchmarks.regbn as o; row = 8, (5,), (4,2,2); print(*o.compare(o.candidates(*row[1:], 'cpu', {str(tmp_path)!r}), *row, 'cpu', True, 1))"
    assert 'published' in subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=root).stdout

def test_full_rank_is_dense():
    "With as many directions as there are, nothing is lost"
    a,b = RegBN(6, 5, rank=5),RegBN(6, 5, adaptive=False)
    for s in range(5): a(*pair(seed=s)); b(*pair(seed=s))
    assert_close(a.W_left@a.W_right, b.W, rtol=1e-4, atol=1e-5)

def test_large_features_choose_low_rank():
    layer = RegBN((512,7,7), (512,7,7))
    assert layer.rank==32 and not layer.adaptive and sum(o.numel() for o in layer.buffers())<4e6

# Compiling

def test_compile_has_no_graph_break():
    layer = steps(RegBN(6, 5, normalize_input=True), range(3)).eval()
    f,g = pair()
    for o in layer, RegBNFusion(dict(a=6, b=5), 3, head=ConcatHead).eval():
        args = (f, g) if o is layer else (dict(a=f, b=g),)
        assert torch._dynamo.explain(o)(*args).graph_break_count==0
        torch._dynamo.reset()
        assert_close(torch.compile(o, fullgraph=True, backend='eager')(*args), o(*args))

def test_export():
    layer = steps(RegBN(6, 5), range(3)).eval()
    f,g = pair()
    batch = torch.export.Dim('batch', min=2)
    program = torch.export.export(layer, (f, g), dynamic_shapes=dict(f={0: batch}, g={0: batch}))
    assert_close(program.module()(f[:7], g[:7]), layer(f[:7], g[:7]))
    head = RegBNFusion(dict(a=6, b=5), 3, head=ConcatHead).eval()
    assert_close(torch.export.export(head, (dict(a=f, b=g),)).module()(dict(a=f, b=g)), head(dict(a=f, b=g)))

# Fusion

def feats(seed=0, **sizes):
    gen = torch.Generator().manual_seed(seed)
    return {k: torch.randn(16, n, generator=gen, requires_grad=True) for k,n in (sizes or dict(audio=6, image=5)).items()}

def test_fusion_is_its_parts():
    x = feats()
    head = RegBNFusion(dict(audio=6, image=5), 3, head=SumHead)
    layer = copy.deepcopy(head.regbn.layers[0])
    f,g = layer(x['audio'], x['image'])
    assert_close(head(x), head.head(dict(audio=f, image=g)))

def test_unimodal_logits_use_this_forward_pass():
    x = feats()
    head = RegBNFusion(dict(audio=6, image=5), 3, head=SumHead)
    logits,before = head(x),state(head)
    shares = head.unimodal_logits(x)
    assert_close(sum(shares.values()), logits, rtol=0, atol=0)
    assert_close(state(head), before, rtol=0, atol=0)
    assert head.regbn.layers[0].batches[0]==1

def test_other_features_are_cleaned_without_learning():
    head = RegBNFusion(dict(audio=6, image=5), 3, head=SumHead)
    head(feats()); before = state(head)
    other = feats(seed=1)
    shares = head.unimodal_logits(other)
    assert_close(state(head), before, rtol=0, atol=0)
    assert_close(sum(shares.values()), head.eval()(other))

def test_what_is_kept_is_dropped_and_not_copied():
    head = RegBNFusion(dict(audio=6, image=5), 3, head=SumHead)
    head(feats())
    for o in copy.deepcopy(head), pickle.loads(pickle.dumps(head)): assert o._kept is None
    assert not any('_kept' in k for k in head.state_dict())
    head.drop(); assert head._kept is None
    head(feats()); head.eval(); assert head._kept is None

def test_pairs_and_directions():
    sizes = dict(audio=6, image=5, text=4)
    both = RegBNPairs(dict(audio=6, image=5), [('audio', 'image'), ('image', 'audio')])
    x = feats(); out = both(x)
    assert_close(out['audio'], RegBN(6, 5)(x['audio'], x['image'])[0]); assert_close(out['image'], RegBN(5, 6)(x['image'], x['audio'])[0])
    three = RegBNPairs(sizes, {'audio': ['image', 'text']})
    x = feats(**sizes); out = three(x)
    first = RegBN(6, 5)(x['audio'], x['image'])[0]
    assert_close(out['audio'], RegBN(6, 4)(first, x['text'])[0]); assert_close(out['text'], F.layer_norm(x['text'], (4,)))
    assert RegBNPairs(sizes).clean==[('audio', 'image')]

@pytest.mark.parametrize('clean', [[('audio', 'sound')], ('audio', 'image'), [('audio', 'audio')], {'audio': 'sound'}])
def test_bad_names(clean):
    with pytest.raises(ValueError, match='clean holds pairs.*audio, image.*pass for example'): RegBNPairs(dict(audio=6, image=5), clean)

def test_stages():
    "Early, in between, and late in one network; the encoders' own parameters are where a balance method looks for them"
    def enc(c): return [nn.Conv2d(c, 4, 3, 2, 1), nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())]
    pairs = {0: RegBNPairs(dict(a=(1,8,8), b=(3,8,8))), 1: RegBNPairs(dict(a=(4,4,4), b=(4,4,4)), [('a', 'b'), ('b', 'a')]), 2: RegBNPairs(dict(a=6, b=6))}
    model = RegBNStages(dict(a=enc(1), b=enc(3)), ConcatHead(dict(a=6, b=6), 2), pairs)
    xs = torch.randn(12, 1, 8, 8),torch.randn(12, 3, 8, 8)
    model(*xs).sum().backward()
    assert all(o.grad is not None for o in model.parameters())
    assert [o.batches[0].item() for o in model.modules() if isinstance(o, RegBN)]==[1]*4 and list(model.encoders)==['a', 'b']
    plain = RegBNStages(dict(a=enc(1), b=enc(3)), ConcatHead(dict(a=6, b=6), 2), {})
    assert_close(plain(*xs), plain.head({m: plain.encoders[m](x) for m,x in zip('ab', xs)}))

# The published call

def test_published_call_and_checkpoint():
    torch.manual_seed(0)
    old = compat.RegBN(6, 3, [], [2, 2], 0, .9, .99, .02, True, True, True, 0., 1e-8, False)
    f,g = torch.randn(20, 6),torch.randn(20, 3, 2, 2)
    new = RegBN(6, (3,2,2), normalize_input=True, affine=True, sigma_min=1e-8)
    assert_close(old(f, g, is_training=True, n_epoch=2, steps_per_epoch=4), (set_epoch(new, 2), new(f, g))[1])
    checkpoint = {k: v for k,v in old.state_dict().items() if k not in ('moments', 'epoch', 'batches')}
    assert checkpoint['W'].shape==(12, 6) and {'norm_f.weight', 'norm_g.running_mean', 'norm_f_out.bias', 'norm_g_out.weight'}<=set(checkpoint)
    fresh = compat.RegBN(6, 3, [], [2, 2], normalize_input=True, affine=True)
    fresh.load_state_dict(checkpoint)
    assert_close(fresh(f, g, is_training=False), old.eval()(f, g))
    with pytest.raises(RuntimeError, match='Missing key'): fresh.load_state_dict({k: v for k,v in checkpoint.items() if k!='W'})
