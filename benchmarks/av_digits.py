"""Does a joint model neglect a modality, and does OGM-GE help? AV digits, several seeds.

    python benchmarks/av_digits.py                # embedded digits, 5 seeds
    python benchmarks/av_digits.py --data real    # spoken and written digits (downloaded, or from MMBALANCE_DATA)

Writes the table it prints to benchmarks/av_digits_<data>_<schedule>.md."""
from common import *
from mmbalance.all import *

def data(name, image_noise, seed=0):
    "Training and validation tensors of AV digits"
    path,df = real_digits(verbose=False) if name=='real' else synth_digits()
    image = GreyImageBlock(noise=image_noise, stats=mnist_stats if name=='real' else synth_stats)
    av = MultimodalDataBlock(audio=MelSpecBlock(sr=8000, length=.6 if name=='real' else .5, n_mels=48), image=image, y=CategoryBlock,
        get_x=[ColReader(m, pref=path) for m in ('audio','image')], splitter=ColSplitter())
    return in_memory(av.dataloaders(df, bs=256, val_bs=256))

def run(parts, seed, use, args, head=ConcatHead, cbs=None):
    "Train once; accuracy of the model and of each modality's share"
    set_seed(seed, reproducible=True)
    dls = tensor_dls(parts, ['audio','image'], use, 10)
    learn = fusion_learner(dls, {m: ConvEncoder for m in use}, head, opt_func=dict(sgd=partial(SGD, mom=.9), adam=Adam)[args.opt], metrics=accuracy, cbs=cbs,
        loss_func=CrossEntropyLossFlat())
    with learn.no_bar(), learn.no_logging():
        if args.schedule=='one_cycle': learn.fit_one_cycle(args.epochs, args.lr)
        else: learn.fit(args.epochs, args.lr, cbs=ParamScheduler(dict(lr=lambda pct: args.lr if pct<.7 else args.lr/10)))
    return dict(zip(learn.recorder.metric_names[3:-1], learn.recorder.values[-1][2:]))

def configs(alpha):
    both = ['audio','image']
    yield 'audio alone', ['audio'], ConcatHead, None
    yield 'image alone', ['image'], ConcatHead, None
    yield 'joint', both, ConcatHead, None
    yield f'joint, OGM-GE alpha {alpha}', both, ConcatHead, lambda: OGMGE(alpha=alpha)
    yield f'joint, OGM-GE alpha {alpha}, RegBNFusion', both, RegBNFusion, lambda: OGMGE(alpha=alpha)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', choices=['synth','real'], default='synth')
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--schedule', choices=['one_cycle','step'], default='one_cycle', help="'step': constant, a tenth after 70 %% of training")
    p.add_argument('--opt', choices=['sgd','adam'], default='sgd')
    p.add_argument('--epochs', type=int, default=15)
    p.add_argument('--lr', type=float, default=.01)
    p.add_argument('--alpha', type=float, default=.8)
    p.add_argument('--image-noise', type=float)
    args = p.parse_args()
    noise = args.image_noise or (1.5 if args.data=='real' else 1.)
    parts,rows = data(args.data, noise), []
    for name,use,head,cb in configs(args.alpha):
        res = [run(parts, seed, use, args, head, cb and cb()) for seed in range(args.seeds)]
        rows.append([name, *[pm([r[k] for r in res]) if k in res[0] and len(use)>1 or k=='accuracy' else '' for k in ('accuracy','audio_accuracy','image_accuracy')]])
        print(rows[-1], flush=True)
    text = f'AV digits ({args.data}): {len(parts[0][-1])} training and {len(parts[1][-1])} validation items, image noise sd {noise}, {args.opt} lr {args.lr}, ' \
        f'{args.schedule}, {args.epochs} epochs, batch 64; accuracy in %, mean ± sd over {args.seeds} seeds.\n\n' \
        + table(rows, ['', 'accuracy', 'audio share', 'image share']) + '\n'
    (here/f'av_digits_{args.data}_{args.schedule}{"" if args.opt=="sgd" else "_"+args.opt}.md').write_text(text)
    print('\n'+text)
