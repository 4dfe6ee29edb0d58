"The metrics agree with their definitions computed in another way, and with scikit-learn and SciPy"
from itertools import permutations
from math import isnan
import pytest, torch
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score
from mmbalance.metrics import (Count, ablate, average_precisions, bootstrap_means, confusion, count_right, estimate, f1_scores, imbalance_degree,
    macro_f1, mcnemar, mean_ap, shapley, subsets, utilisation)

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
    conditional = utilisation({(): 0, ('1',): .72, ('2',): .5, ('1','2'): .8})
    assert conditional['2']-conditional['1']==pytest.approx(-.275)  # the first modality dominates
    assert isnan(imbalance_degree(dict(a=0., b=0.)))  # undefined
    assert Count(3, 4)+Count(0, 1)==Count(3, 5) and (Count(3, 4)+Count(0, 1)).accuracy==.6

def test_worked_example_of_f1():
    y,preds = torch.tensor([0,0,1,2]),torch.tensor([0,1,1,1])
    assert count_right(preds, y).accuracy==.5 and macro_f1(preds, y, 3)==pytest.approx(.388889, abs=1e-6)
    assert f1_scores(preds, y, 3).tolist()==pytest.approx([2/3, 1/2, 0])
    assert macro_f1(torch.tensor([0,1]), torch.tensor([0,1]), 3)==pytest.approx(2/3)  # all right, and a class is absent

def test_imbalance_of_many_and_of_losses():
    "By hand: (largest - smallest) / sum of sizes, in any order; a modality that costs accuracy counts with its size"
    for phi,want in ((.1,.3,.2), 1/3), ((.3,-.1), 1), ((-.1,.3,.1), .8), ((-.2,-.2), 0): assert imbalance_degree(dict(zip('abc', phi)))==pytest.approx(want)
    batch = imbalance_degree(dict(a=torch.tensor([.6,.3,0]), b=torch.tensor([.2,-.1,0])))
    assert batch[:2].tolist()==pytest.approx([.5,1]) and batch[2].isnan()

def test_what_rounding_leaves_is_no_contribution():
    "Each adds .1 before the other and takes .1 after it: nothing in sum, but 1e-17 in floating point"
    phi = shapley({(): .1, ('a',): .1+.2, ('b',): .1+.2, ('a','b'): .1+.2-.2})
    assert isnan(imbalance_degree(phi)) and isnan(imbalance_degree(dict(a=1e-17, b=-2e-17)))

def test_an_estimate_without_a_value_says_so():
    "No value: no interval. A value, and draws without one: the interval of the others"
    def share(p): return p[0]/p[0]
    none,some = (estimate(share, torch.tensor(x)[:,None], n_boot=200) for x in ([0.]*8, [1.]+[0]*7))
    assert all(map(isnan, none)) and str(none)=='no value'
    assert (some.value, some.low, some.high)==(1, 1, 1) and (bootstrap_means(torch.tensor([1.]+[0]*7)[:,None], 200)==0).any()
    assert str(Count(0, 0))=='no samples' and str(Count(1, 2))=='50.0% (1 of 2)'

@pytest.mark.parametrize('level', [.5, .9, .99])
def test_the_level_of_an_interval(level):
    "As many draws lie within as it says"
    x = (torch.arange(500)%5==0).double()[:,None]
    est,draws = estimate(lambda p: p[0], x, level=level),bootstrap_means(x)[:,0]
    assert ((draws>=est.low)&(draws<=est.high)).float().mean().item()==pytest.approx(level, abs=.05)

def test_average_precision_is_that_of_probabilities():
    "The softmax over the classes ranks the samples of a class otherwise than the logits: of the first two, the second is surer of class 0"
    logits,y = torch.tensor([[3.,3,0],[2,-2,-2],[0,1,0]]),torch.tensor([1,0,2])
    for k in 0,1,2: assert average_precisions(logits.softmax(1), y)[k].item()==pytest.approx(average_precision_score(y==k, logits.softmax(1)[:,k]))
    assert average_precisions(logits.softmax(1), y)[0]==1 and average_precisions(logits, y)[0]==.5

@pytest.mark.parametrize('n,points', [(704,1.73), (2400,.94), (15446,.37)])
def test_standard_error(n, points): assert 100*Count(round(.7*n), n).std_error==pytest.approx(points, abs=.005)

@pytest.mark.parametrize('prevalence', [.5, .7109, .9])
def test_f1_of_a_constant_answer(prevalence):
    y = (torch.arange(10_000)>=10_000*prevalence).long()
    assert macro_f1(torch.zeros_like(y), y, 2)==pytest.approx(prevalence/(1+prevalence), abs=1e-6)

@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('digits', [1, 6])
def test_average_precision_is_scikit_learns(seed, digits):
    "Also with many equal scores; a class that does not occur has none, and the mean leaves it out"
    torch.manual_seed(seed)
    scores,y = torch.rand(40, 5).mul(10**digits).round().div(10**digits),torch.randint(0, 4, (40,))
    want = [average_precision_score(y==k, scores[:,k]) for k in range(4)]
    assert average_precisions(scores, y)[:4].tolist()==pytest.approx(want) and average_precisions(scores, y)[4].isnan()
    assert mean_ap(scores, y)==pytest.approx(sum(want)/4)

def test_shapley_treats_equals_alike():
    "Two that add the same everywhere get the same; of two alone, the difference is that of their accuracies"
    torch.manual_seed(0)
    v = {S: torch.rand(()).item() for S in subsets('abc')}
    for S in subsets('abc'):
        if 'a' in S and 'b' not in S: v[tuple(sorted((*(o for o in S if o!='a'), 'b')))] = v[S]
    assert shapley(v)['a']==pytest.approx(shapley(v)['b'])
    two = {S: torch.rand(()).item() for S in subsets('ab')}
    assert shapley(two)['a']-shapley(two)['b']==pytest.approx(two[('a',)]-two[('b',)])

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

def test_no_accuracy_no_utilisation(): assert all(map(isnan, utilisation({(): 0., ('a',): .1, ('b',): 0., ('a','b'): 0.}).values()))

def test_logits_or_classes():
    logits,y = torch.tensor([[1.,0],[0,1],[0,1]]),torch.tensor([0,1,0])
    assert count_right(logits, y)==count_right(logits.argmax(1), y)==Count(2, 3)
    with pytest.raises(ValueError, match='one prediction and one class'): count_right(y[:2], y)

def test_ablation_keeps_the_dtype():
    xs = dict(a=torch.ones(2, 3, dtype=torch.bfloat16), b=torch.ones(2, 3))
    res = ablate(xs, (), dict(a=torch.full((3,), 2.), b=torch.zeros(3)))
    assert res['a'].dtype==torch.bfloat16 and res['a'].tolist()==[[2]*3]*2
