"""RegBN against reference numbers: the exact solution in float64 and what the published module returned.

`golden/regbn.npz` holds, for six configurations, inputs and results of a few training steps and one evaluation batch:
`ex_` solves the published equation exactly, `pa_` the paper's, `off_` was returned by the published module (its search for
the multiplier is loose: up to 60 % off). `ex_grad_` holds the multiplier constant, `exi_grad_` differentiates it."""
import json
from pathlib import Path
import numpy as np, pytest, torch
from torch.testing import assert_close
from mmbalance.layers.regbn import RegBN
from mmbalance.ridge import ridge_projection

golden = np.load(Path(__file__).parent/'golden'/'regbn.npz')
cases = [k.removesuffix('/config') for k in golden.files if k.endswith('/config')]
dtypes = [torch.float32, torch.float64]

def has(case, key): return f'{case}/{key}' in golden.files
def read(case, key, dtype=torch.float64):
    x = torch.tensor(golden[f'{case}/{key}'])
    return x.to(dtype) if x.is_floating_point() else x

def close(a, b, tol=1e-5): assert_close(a.detach(), b.to(a.dtype), rtol=0, atol=tol*max(1., b.abs().max().item()))

def layer(case, dtype, **kwargs):
    res = RegBN(**json.loads(str(golden[f'{case}/config'])), **kwargs).to(dtype)
    for k in golden.files:
        if k.startswith(f'{case}/aff/'): res.get_parameter(k.removeprefix(f'{case}/aff/')).data.copy_(torch.tensor(golden[k]))
    return res

def train(regbn, case, dtype):
    for f,g,epoch in zip(read(case, 'f', dtype), read(case, 'g', dtype), read(case, 'n_epoch')):
        regbn.epoch.fill_(epoch)
        f_out,g_out = regbn(f, g)
    return f_out,g_out

@pytest.mark.parametrize('dtype', dtypes)
@pytest.mark.parametrize('case', cases)
@pytest.mark.parametrize('constraint,key', [('fit', 'ex'), ('weight', 'pa')])
def test_steps_and_evaluation(case, dtype, constraint, key):
    if not has(case, f'{key}_W'): pytest.skip('not carried')
    regbn = layer(case, dtype, constraint=constraint)
    f_out,g_out = train(regbn, case, dtype)
    close(f_out, read(case, f'{key}_f_out')); close(regbn.W, read(case, f'{key}_W'))
    if has(case, 'ex_g_out'): close(g_out, read(case, 'ex_g_out'))
    if has(case, f'{key}_f_eval'):
        f_eval,g_eval = regbn.eval()(read(case, 'f_eval', dtype), read(case, 'g_eval', dtype))
        close(f_eval, read(case, f'{key}_f_eval')); close(g_eval, read(case, 'ex_g_eval'))

@pytest.mark.parametrize('case', cases)
@pytest.mark.parametrize('constraint,key', [('fit', 'ex'), ('weight', 'pa')])
def test_multiplier(case, constraint, key):
    regbn = layer(case, torch.float64, constraint=constraint)
    for f,g,lam in zip(read(case, 'f'), read(case, 'g'), read(case, f'{key}_lam')):
        f,g,_ = regbn._normalize(f, g, fit=True)
        p = ridge_projection(f.flatten(1), g.flatten(1), constraint, regbn.sigma_thr, regbn.sigma_min)
        assert_close(p.lam.detach(), lam, rtol=1e-6, atol=1e-9)

@pytest.mark.parametrize('dtype', dtypes)
@pytest.mark.parametrize('case', cases)
@pytest.mark.parametrize('implicit,key', [(False, 'ex'), (True, 'exi')])
def test_gradients(case, dtype, implicit, key):
    if not has(case, f'{key}_grad_f_step0'): pytest.skip('not defined with a threshold')
    regbn = layer(case, dtype, implicit=implicit)
    regbn.epoch.fill_(read(case, 'n_epoch')[0])
    f,g = (read(case, k, dtype)[0].requires_grad_() for k in 'fg')
    (regbn(f, g)[0]*read(case, 'R', dtype)).sum().backward()
    close(f.grad, read(case, f'{key}_grad_f_step0')); close(g.grad, read(case, f'{key}_grad_g_step0'))
    for k in golden.files if key=='ex' else []:
        if k.startswith(f'{case}/ex_grad_norm'): close(regbn.get_parameter(k.removeprefix(f'{case}/ex_grad_').removesuffix('_step0')).grad, torch.tensor(golden[k]))

@pytest.mark.parametrize('case', cases)
def test_published_output_at_the_published_multiplier(case):
    regbn = layer(case, torch.float64)
    f,g = read(case, 'f')[0],read(case, 'g')[0]
    nf,ng,_ = regbn._normalize(f, g, fit=True)
    p = ridge_projection(nf.flatten(1), ng.flatten(1), 'fit', regbn.sigma_thr, regbn.sigma_min, lam=read(case, 'off_lam')[0])
    rest = f - p.fit(g.flatten(1)).view(f.shape)
    if regbn.norm_f_out is not None: rest = regbn.norm_f_out(rest)
    close(rest, read(case, 'off_f_out'))

@pytest.mark.parametrize('case', ['orthogonal_grad', 'wide_grad'])
@pytest.mark.parametrize('sigma_thr', [0., 1e-3])
def test_gradients_where_singular_values_coincide(case, sigma_thr):
    f,g = (read(case, k)[0].requires_grad_() for k in 'fg')
    p = ridge_projection(f, g, sigma_thr=sigma_thr)
    ((f-p.fit(g))*read(case, 'R')).sum().backward()
    close(f.grad, read(case, 'ex_grad_f')); close(g.grad, read(case, 'ex_grad_g'))

@pytest.mark.parametrize('case', [k.removesuffix('/lam') for k in golden.files if k.endswith('/lam')])
def test_every_scale_has_its_root(case):
    for f,g,lam in zip(read(case, 'f'), read(case, 'g'), read(case, 'lam')):
        p = ridge_projection(f, g)
        assert p.found and abs(p.lam/lam-1)<1e-6

def test_rank():
    assert not ridge_projection(read('rank1', 'f')[0].float(), read('rank1', 'g')[0].float()).found
    p = ridge_projection(read('rankdef_notfound_min0', 'f')[0], read('rankdef_notfound_min0', 'g')[0])
    assert p.found and abs(p.lam/.0005816298093947244-1)<1e-6

@pytest.mark.parametrize('sigma_thr', [0., 1e-3])
def test_one_hot_g_has_a_gradient(sigma_thr):
    "All singular values are equal: the derivative of a singular value decomposition is NaN here"
    torch.manual_seed(0)
    f,g = torch.randn(16, 5).double().requires_grad_(),3*torch.eye(4).double().repeat(4, 1).requires_grad_()
    lam = ridge_projection(f, g).lam.detach()
    assert_close(lam, torch.tensor(36.).double())  # 4 (36/(36+lam))² = 1
    assert torch.autograd.gradcheck(lambda f,g: ridge_projection(f, g, sigma_thr=sigma_thr, lam=lam).fit(g), (f, g))
