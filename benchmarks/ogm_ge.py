"""OGM-GE and the simple references on AV digits: accuracy of each, where the coefficient should act, and what a step costs.

    python benchmarks/ogm_ge.py accuracy                 # embedded digits, SGD and Adam, 5 seeds, with a linear probe
    python benchmarks/ogm_ge.py accuracy --data real     # spoken and written digits, from MMBALANCE_DATA; embedded ones where it is not set
    python benchmarks/ogm_ge.py params                   # convolutions only, or all parameters
    python benchmarks/ogm_ge.py cost                     # two ResNet-18, batch 64, inputs of 64 x 64

Each writes the table it prints to benchmarks/ogm_ge_<what>.md."""
import os, time
from common import *
from av_digits import data
from mmbalance.all import *

names = ['audio','image']

def learner(parts, head=ConcatHead, only=None, opt='adam', cbs=None):
    "A learner on digits in memory; `only` trains one modality of the pair"
    dls,enc = tensor_dls(parts, names, names, 10),{m: ConvEncoder(1) for m in names}
    model = UnimodalModel(enc, only, ConcatHead({only: 128}, 10)) if only else FusionModel(enc, head({m: 128 for m in names}, 10))
    uni = UnimodalAccuracy()
    return Learner(dls, model, CrossEntropyLossFlat(), opt_func=dict(sgd=partial(SGD, mom=.9), adam=Adam)[opt], metrics=[accuracy, *uni.metrics(model.encoders)], cbs=[uni, *L(cbs)])

def run(parts, seed, epochs, lr, **kwargs):
    "Train once; accuracy of the model, of each modality's share, and of a linear probe on each modality's features"
    set_seed(seed, reproducible=True)
    learn = learner(parts, **{k: v() if k=='cbs' else v for k,v in kwargs.items()})
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    res = {k: v for k,v in zip(learn.recorder.metric_names[1:], learn.recorder.values[-1]) if 'accuracy' in k}
    if 'only' in kwargs: return res
    return res | {f'{m}_probe': v for m,v in linear_probe(learn, n_boot=1).probe.items()}

methods = {
    'audio alone': dict(only='audio'), 'image alone': dict(only='image'), 'joint': {},
    'OGM, on the gradient': dict(cbs=lambda: OGM()), 'OGM, on the update': dict(cbs=lambda: OGM(act='update')),
    'OGM-GE, on the gradient': dict(cbs=lambda: OGMGE()), 'OGM-GE, on the update': dict(cbs=lambda: OGMGE(act='update')),
    'uniform multi-loss': dict(cbs=lambda: UniformMultiLoss()), 'modality dropout': dict(cbs=lambda: ModalityDropout()),
    'RegBNFusion': dict(head=partial(RegBNFusion, head=ConcatHead)),
    'OGM-GE + RegBNFusion': dict(cbs=lambda: OGMGE(), head=partial(RegBNFusion, head=ConcatHead))}
parameters = {'joint': {}, **{f'{n}, {p}': dict(cbs=lambda p=p,c=c: c(params=p)) for n,c in (('OGM', OGM), ('OGM-GE', OGMGE)) for p in ('conv','all')}}

def accuracies(args, configs, what):
    "A table per optimiser with a row per method, written after each row; a probe is a linear classifier on the frozen features"
    real = args.data=='real' and 'MMBALANCE_DATA' in os.environ
    if args.data=='real' and not real: print('MMBALANCE_DATA is not set, so the embedded digits are taken instead of the real ones')
    noise,lrs = args.image_noise or (1.5 if real else 1.),dict(sgd=args.lr_sgd, adam=args.lr_adam)
    parts = data('real' if real else 'synth', noise)
    text = f'AV digits ({"real" if real else "embedded"}): {len(parts[0][-1])} training and {len(parts[1][-1])} validation items, image noise sd {noise}; ' \
        f'one cycle of {args.epochs} epochs, batch 64, SGD (momentum .9) at {args.lr_sgd}, Adam at {args.lr_adam}; alpha .8; accuracy in %, mean ± sd over {args.seeds} seeds.\n\n'
    columns = dict(accuracy='accuracy', audio_accuracy='audio share', image_accuracy='image share', audio_probe='audio probe', image_probe='image probe')
    done = {opt: [] for opt in lrs}
    for name,kwargs in configs.items():
        for opt,lr in lrs.items():
            res = [run(parts, seed, args.epochs, lr, opt=opt, **kwargs) for seed in range(args.seeds)]
            done[opt].append([name, *[pm([o[k] for o in res]) if k in res[0] else '' for k in columns]])
            print(opt, done[opt][-1], flush=True)
        write(f'{what}_{"real" if real else "synth"}', text + '\n\n'.join(f'{o.upper() if o=="sgd" else "Adam"}\n\n{table(rows, ["", *columns.values()])}' for o,rows in done.items()))

def write(name, text): (here/f'ogm_ge_{name}.md').write_text(text+'\n', encoding='utf-8')

class NaiveOGMGE(BalanceCallback):
    "The straightforward way: a loop over samples, and `.item()` for every parameter"
    def before_step(self):
        score = {m: 0. for m in self.unimodal_logits}
        for m,u in self.unimodal_logits.items():
            for i,y in enumerate(self.y): score[m] += u.softmax(1)[i][y].item()
        for m,enc in self.mm.encoders.items():
            other = next(k for k in score if k!=m)
            ratio = score[m]/score[other]
            coef = 1-np.tanh(.8*ratio) if ratio>1 else 1.
            for p in enc.parameters():
                if p.grad is not None and p.grad.ndim==4: p.grad = p.grad*coef + torch.zeros_like(p.grad).normal_(0, p.grad.std().item()+1e-8)

def step_times(cb, n, device):
    "Seconds that the events of `cb` take in a step, and those of the rest of the step: the least of `n`, since other work on the machine only adds"
    xs,y = [torch.randn(64, c, 64, 64, device=device) for c in (1,3)],torch.randint(0, 6, (64,), device=device)
    encs = {m: PooledEncoder(create_body(resnet18(weights=None), c, False)) for m,c in zip(names, (1,3))}
    learn = Learner(DataLoaders.from_dsets(*[L(range(2))]*2, bs=2, device=device), FusionModel(encs, ConcatHead({m: 512 for m in names}, 6)).to(device),
        CrossEntropyLossFlat(), opt_func=partial(SGD, mom=.9), cbs=cb)
    def now():
        if device=='cuda': torch.cuda.synchronize()
        return time.perf_counter()
    def call(event):
        t = now(); cb(event)
        return now()-t
    learn.create_opt()
    learn.epoch,learn.pct_train,learn.training = 0,0.,True
    learn.model.train()
    for event in 'before_fit','before_train': call(event)
    spent,total = [],[]
    for _ in range(n+2):
        t,mine = now(),0
        learn.xb,learn.yb = tuple(xs),(y,)
        learn.pred = learn.model(*learn.xb)
        mine += call('after_pred')
        learn.loss_func(learn.pred, y).backward()
        mine += call('after_backward')+call('before_step')
        learn.opt.step()
        mine += call('after_step')
        learn.opt.zero_grad()
        mine += call('after_batch')
        spent.append(mine); total.append(now()-t)
    return min(spent[2:]), min(a-b for a,b in zip(total[2:], spent[2:]))

def draw_time(n, k=7):
    "Seconds that torch needs for `n` normal numbers, the least of `k`"
    def one():
        t = time.perf_counter(); torch.randn(n)
        return time.perf_counter()-t
    return min(one() for _ in range(k))

def cost(args):
    device = args.device
    configs = {'OGM, on the gradient': OGM(), 'OGM, on the update': OGM(act='update'), 'OGM-GE, on the gradient': OGMGE(), 'OGM-GE, on the update': OGMGE(act='update'),
        'OGM-GE, noise from a pool': OGMGE(noise=PoolNoise), 'a straightforward version': NaiveOGMGE()}
    n_numbers = 2*sum(p.numel() for p in conv_weights(resnet18(weights=None)))
    draw,rows = draw_time(n_numbers),[]
    for name,cb in configs.items():
        mine,rest = step_times(cb, args.steps, device)
        rows.append([name, f'{mine*1e3:.1f}', f'{100*mine/rest:.2f}', f'{mine/draw:.2f}']); print(rows[-1], flush=True)
    write(f'cost_{device}', f'Two ResNet-18, batch 64, inputs of 64×64, SGD with momentum, {device}, {torch.get_num_threads()} thread(s), {platform.machine()}, torch {torch.__version__}; least of {args.steps} steps. ' \
        f'Time in all events of the callback; the share is of the step without it; torch draws {n_numbers/1e6:.1f} million normal numbers in {draw*1e3:.0f} ms.\n\n' \
        + table(rows, ['', 'ms', '% of the step', 'times the draw']))

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['accuracy','params','cost'])
    p.add_argument('--data', choices=['synth','real'], default='synth')
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--epochs', type=int, default=15)
    p.add_argument('--lr-sgd', type=float, default=.01)
    p.add_argument('--lr-adam', type=float, default=1e-3)
    p.add_argument('--image-noise', type=float)
    p.add_argument('--steps', type=int, default=7)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--device', default='cpu')
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    cost(args) if args.what=='cost' else accuracies(args, methods if args.what=='accuracy' else parameters, args.what)
