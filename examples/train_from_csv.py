"""Train a balanced model on your own pairs of sounds and pictures.

    python examples/train_from_csv.py pairs.csv --length 3 --epochs 10

The table has the columns audio and image (paths relative to it), label, and is_valid (True for validation)."""
import argparse
from mmbalance.all import *

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('csv', type=Path)
p.add_argument('--sr', type=int, default=16_000, help='rate that every sound is brought to, in Hz')
p.add_argument('--length', type=float, default=3, help='length that every sound is brought to, in seconds')
p.add_argument('--size', type=int, default=128, help='width and height of the pictures')
p.add_argument('--arch', default='resnet18', help="an architecture of torchvision, or 'conv' for four convolutions")
p.add_argument('--epochs', type=int, default=10)
p.add_argument('--alpha', type=float, default=.8, help='degree of modulation of OGM-GE')
args = p.parse_args()

df,path = pd.read_csv(args.csv),args.csv.parent
av = MultimodalDataBlock(audio=MelSpecBlock(sr=args.sr, length=args.length), image=ImageBlock, y=CategoryBlock,
    get_x=[ColReader('audio', pref=path), ColReader('image', pref=path)], splitter=ColSplitter(), item_tfms=Resize(args.size))
dls = av.dataloaders(df, bs=min(64, (~df.is_valid).sum()))

arch = ConvEncoder if args.arch=='conv' else getattr(models, args.arch)
learn = fusion_learner(dls, dict(audio=arch, image=arch), partial(RegBNFusion, head=ConcatHead), opt_func=partial(SGD, mom=.9),
    metrics=accuracy, cbs=OGMGE(alpha=args.alpha), path=path)
learn.fit_one_cycle(args.epochs, 1e-2)
learn.export('balanced.pkl')
print(f'saved {path/"balanced.pkl"}')
