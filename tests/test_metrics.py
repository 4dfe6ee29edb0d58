"The metrics agree with their definitions computed in another way, and with scikit-learn and SciPy"
from itertools import permutations
import pytest, torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score
from mmbalance.metrics import (Count, ablate, bootstrap_means, confusion, count_right, estimate, f1_scores, imbalance_degree,
    macro_f1, mcnemar, shapley, subsets, utilisation)

def by_orders(values, names):
    "Shapley by its other definition: the mean rise over all orders of entering"
    orders,phi = list(permutations(names)), dict.fromkeys(names, 0)
    for order in orders:
        for i,m in enumerate(order):
            def v(k): return values[tuple(o for o in names if o in order[:k])]
            phi[m] += (v(i+1)-v(i))/len(orders)
    return phi

@pytest.mark.parametrize('n', [1, 2, 3, 4])
def test_shapley_is_the_mean_over_orders(n):
    torch.manual_seed(n)
    names = list('abcd'[:n])
    v = {S: torch.rand(()).item() for S in subsets(names)}
    assert shapley(v)==pytest.approx(by_orders(v, names))
    assert sum(shapley(v).values())==pytest.approx(v[tuple(names)]-v[()])

def test_worked_examples():
    two = {(): 1/6, ('a',): .58, ('b',): .40, ('a','b'): .65}
    assert shapley(two)==pytest.approx(dict(a=.331667, b=.151667), abs=1e-6)
    three = {(): 0, ('a',): .5, ('b',): .4, ('c',): .3, ('a','b'): .7, ('a','c'): .6, ('b','c'): .55, ('a','b','c'): .8}
    assert shapley(three)==pytest.approx(dict(a=.35, b=.275, c=.175))
    assert imbalance_degree(dict(a=.6, b=.2))==pytest.approx(.5)
    assert utilisation({(): 0, ('1',): .72, ('2',): .5, ('1','2'): .8})==pytest.approx({'1': .375, '2': .1})
    assert Count(3, 4)+Count(0, 1)==Count(3, 5) and (Count(3, 4)+Count(0, 1)).accuracy==.6

@pytest.mark.parametrize('seed', range(5))
def test_f1_is_scikit_learns_over_all_classes(seed):
    torch.manual_seed(seed)
    y,preds = torch.randint(0, 5, (60,)),torch.randint(1, 6, (60,))  # of 7 classes, 0 is never predicted, 5 never there, 6 neither
    assert macro_f1(preds, y, 7)==pytest.approx(f1_score(y, preds, average='macro', labels=range(7), zero_division=0))
    assert f1_scores(preds, y, 7).tolist()==pytest.approx(f1_score(y, preds, average=None, labels=range(7), zero_division=0).tolist())
    assert confusion(preds, y, 7).tolist()==confusion_matrix(y, preds, labels=range(7)).tolist()

@pytest.mark.parametrize('a,b', [(0,1), (5,5), (3,12), (12,3), (1000,1100)])
def test_mcnemar_is_the_binomial_test(a, b): assert mcnemar(a, b)==pytest.approx(binomtest(a, a+b).pvalue)

def test_bootstrap_is_paired():
    "A quantity that is the same for every sample has no spread, however its parts vary"
    x = torch.stack([right := (torch.arange(200)%3==0).double(), right], 1)
    est = estimate(lambda p: p[0]-p[1], x)
    assert (est.value, est.low, est.high)==(0, 0, 0)
    assert bootstrap_means(x, 2000)[:,0].std().item()==pytest.approx(Count(67, 200).std_error, rel=.05)

def test_logits_or_classes():
    logits,y = torch.tensor([[1.,0],[0,1],[0,1]]),torch.tensor([0,1,0])
    assert count_right(logits, y)==count_right(logits.argmax(1), y)==Count(2, 3)
    with pytest.raises(ValueError, match='one prediction and one class'): count_right(y[:2], y)

def test_ablation_keeps_the_dtype():
    xs = dict(a=torch.ones(2, 3, dtype=torch.bfloat16), b=torch.ones(2, 3))
    res = ablate(xs, (), dict(a=torch.full((3,), 2.), b=torch.zeros(3)))
    assert res['a'].dtype==torch.bfloat16 and res['a'].tolist()==[[2]*3]*2
