"""Samples per second and core, from files to batches: sounds as published pipelines read them and as blocks do, with and without a cache, and pictures.

    python benchmarks/input.py                   # files that are generated for it
    python benchmarks/input.py --folder sounds   # your own audio files in the place of the ten-second ones

Rows with librosa need it (pip install librosa); they are left out where it is not installed. Each number is the best of `--repeats`
passes over files that the operating system holds in memory, on one thread. Writes benchmarks/input.md."""
import random, tempfile, time
import soundfile as sf
from common import *
from mmbalance.all import *
from torchaudio.transforms import Resample, Spectrogram
try: import librosa
except ImportError: librosa = None

def make_sounds(path, n, seconds, sr, channels, ext='wav'):
    "Files of noise that dies away again and again"
    path.mkdir()
    rng,t = np.random.default_rng(0),np.arange(int(seconds*sr))
    for i in range(n): sf.write(path/f'{i:03}.{ext}', .3*rng.standard_normal((len(t), channels)).clip(-3, 3)*np.exp(-(t%sr)/sr*5)[:,None], sr)
    return sorted(path.iterdir())

def make_pictures(path, n):
    path.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n): Image.fromarray(rng.integers(0, 255, (45,80,3), 'uint8')).resize((640,360), Image.BICUBIC).save(path/f'{i:03}.jpg', quality=90)
    return sorted(path.iterdir())

def rate(f, n, repeats):
    "Samples per second of the best of several passes, after one that warms up"
    f()
    def once():
        t = time.perf_counter(); f()
        return n/(time.perf_counter()-t)
    return max(once() for _ in range(repeats))

def each(f, files):
    "Call `f` on each file; what it returns is let go at once, as a data loader does after each batch"
    def run():
        for o in files: f(o)
    return run

def show(x): return f'{x:,.0f}' if x>=100 else f'{x:.1f}'

def compare(title, contenders, n, repeats, base):
    "One row per contender: samples per second, milliseconds, and how many times the base"
    rates = {k: rate(f, n, repeats) for k,f in contenders.items()}
    rows = [(k, show(v), f'{1000/v:.3f}', f'{v/rates[base]:.2f}' if base in rates else '') for k,v in rates.items()]
    res = f'## {title}\n\n'+table(rows, ['', 'samples per second', 'ms', f'times {base}'])+'\n'
    print(res, flush=True)
    return res

def with_soundfile(fn, start=0, length=None, mono=False):
    with sf.SoundFile(fn) as f:
        if length: f.seek(int(start*f.samplerate))
        x,sr = f.read(int(length*f.samplerate) if length else -1, 'float32', always_2d=True),f.samplerate
    return x.mean(1) if mono else x,sr

resamplers = {}
def with_torchaudio(fn, sr, **kwargs):
    "torchaudio's own `load` needs a further package by now, so it is soundfile that reads"
    x,sr_from = with_soundfile(fn, mono=True, **kwargs)
    if sr_from==sr: return x
    if (sr_from,sr) not in resamplers: resamplers[sr_from,sr] = Resample(sr_from, sr)
    return resamplers[sr_from,sr](torch.from_numpy(x))

def reading(title, files, sr, tmp, repeats, length=None, seconds=None):
    "Whole files, or random parts of them"
    def load(cache=None, **kwargs):
        block = LoadAudio(sr=sr, length=length, cache=cache)
        return each(partial(block, split_idx=0), files)
    def part(): return dict(start=random.uniform(0, seconds-length), length=length) if length else {}
    def with_librosa(fn):
        o = part()
        return librosa.load(fn, sr=sr, **dict(offset=o['start'], duration=length) if o else {})
    fs = {'librosa.load'+(' at its defaults' if not length else ''): each(with_librosa, files)} if librosa else {}
    fs |= {'soundfile alone, neither mixed nor resampled': each(lambda o: with_soundfile(o, **part()), files),
        'soundfile, mean, torchaudio': each(lambda o: with_torchaudio(o, sr, **part()), files),
        'LoadAudio': load(), 'LoadAudio, from the cache': load(tempfile.mkdtemp(dir=tmp))}
    return compare(title, fs, len(files), repeats, next(iter(fs)))

def published(fn):
    "The spectrogram of an item as it is computed for CREMA-D and in its many followers"
    x,sr = librosa.load(fn)
    x = np.clip(np.tile(x, -(-66_150//len(x)))[:66_150], -1, 1)
    return np.log(np.abs(librosa.stft(x, n_fft=512, hop_length=353))+1e-7)

def published_torchaudio(fn, spec=Spectrogram(512, hop_length=353, power=1)):
    x = torch.as_tensor(with_torchaudio(fn, 22_050))
    return (spec(x.repeat(-(-66_150//len(x)))[:66_150].clamp(-1, 1))+1e-7).log()

def spectrograms(title, files, tmp, repeats):
    "Reading and a log magnitude of 257 bins and 188 frames, of 3 seconds"
    def epoch(block):
        dls = DataBlock((block,), get_items=noop, splitter=IndexSplitter([0])).dataloaders(files, bs=64, num_workers=0, device='cpu')
        dl = dls.train.new(shuffle=False, drop_last=False, get_idxs=lambda: range(len(files)-1))
        return each(noop, dl)
    preset = audio_presets['crema_d']
    fs = {'librosa, item by item': each(published, files)} if librosa else {}
    fs |= {'soundfile and torchaudio, item by item': each(published_torchaudio, files),
        'the preset `crema_d` in batches of 64': epoch(preset()),
        'the same from the cache': epoch(preset(cache=tempfile.mkdtemp(dir=tmp))),
        'what workers do if a GPU makes the spectrogram': epoch(AudioBlock(sr=22_050, length=3, start=0., pad='repeat')),
        'the same from the cache, too': epoch(AudioBlock(sr=22_050, length=3, start=0., pad='repeat', cache=tempfile.mkdtemp(dir=tmp)))}
    return compare(title, fs, len(files), repeats, next(iter(fs)))

def pictures(files, repeats):
    dls = DataBlock((ImageBlock, CategoryBlock), get_y=lambda o: int(o.stem)%2, splitter=IndexSplitter([0,1]), item_tfms=Resize(224)).dataloaders(files, bs=len(files)-2, num_workers=0, device='cpu')
    return compare('Plain fastai pictures, for comparison', {'JPEG of 640 × 360, `Resize(224)`': each(noop, dls.train)}, len(files)-2, repeats, 'them')

def digits(repeats):
    "What an item of two small files costs"
    path,df = synth_digits()
    def epoch(cache=None):
        av = MultimodalDataBlock(audio=MelSpecBlock(sr=8000, length=.5, n_mels=32, cache=cache), image=GreyImageBlock(), y=CategoryBlock,
            get_x={m: ColReader(m, pref=path) for m in ('audio','image')}, splitter=ColSplitter())
        dls = av.dataloaders(df, bs=64, num_workers=0, device='cpu')
        return each(noop, dls.train)
    fns = [path/o for o in df.audio[:1280]]
    with tempfile.TemporaryDirectory() as tmp:
        return compare('Embedded digits: half a second of 8 kHz, and 8 × 8 pixels', {'soundfile, sound only': each(with_soundfile, fns),
            '`MultimodalDataBlock`, sound and picture, spectrogram': epoch(), 'the same from the cache': epoch(tmp)}, 1280, repeats, 'soundfile, sound only')

def chunks(repeats):
    "Milliseconds per sound by the number that is transformed at once"
    fronts = {'log STFT 512/353, 3 s at 22 kHz': (ToSpec(512, 353), 22_050, 3), 'log mel 512/128, 3 s at 16 kHz': (ToMelSpec(16_000), 16_000, 3),
        'log mel 512/128, .5 s at 8 kHz': (ToMelSpec(8000), 8000, .5), 'filter bank, 10 s at 16 kHz': (ToFilterBank(), 16_000, 10)}
    ns,rows = (1,2,4,8,16,64),[]
    for name,(front,sr,seconds) in fronts.items():
        x = torch.randn(64, 1, round(sr*seconds))*.1
        at_once = [f'{1000/rate(each(partial(front.spec, sr=sr), x.split(n)), 64, repeats):.3f}' for n in ns]
        rows.append((name, *at_once, f'{1000/rate(lambda: front(TensorAudio(x, sr=sr)), 64, repeats):.3f}'))
    res = '## How many sounds at once\n\nMilliseconds per sound, of 64 in all. The last column is what a block does on a CPU: some 2**18 samples at a time.\n\n'+table(rows, ['', *ns, 'block'])+'\n'
    print(res, flush=True)
    return res

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--folder', type=Path, help='audio files in the place of the ten-second ones')
    p.add_argument('--repeats', type=int, default=5)
    args = p.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        tmp = Path(tmp)
        short,ten = make_sounds(tmp/'short', 64, 2.5, 22_050, 1),get_files(args.folder, extensions=['.wav','.flac','.ogg','.mp3']).sorted() if args.folder else make_sounds(tmp/'ten', 32, 10, 44_100, 2)
        crema_d = make_sounds(tmp/'crema_d', 64, 2.5, 16_000, 1)
        long = {ext: make_sounds(tmp/ext, 8, 60, 44_100, 2, ext)*4 for ext in ('wav','flac')}
        kind = f'{len(ten)} files of {args.folder.name}' if args.folder else '10 s at 44.1 kHz, stereo'
        parts = [f'Samples per second on one thread of {platform.machine()}, best of {args.repeats} passes; torch {torch.__version__}, '
            f'{f"librosa {librosa.__version__}" if librosa else "without librosa"}, Python {platform.python_version()}. Files lie in the memory of the operating system. '
            'librosa resamples with soxr at high quality, blocks with torchaudio\'s windowed sinc; the results differ there.\n',
            reading('Reading whole: 2.5 s of 22,050 Hz, as they are', short, 22_050, tmp, args.repeats),
            reading('Reading whole: 2.5 s of 16,000 Hz mono, as CREMA-D has them, to 22,050 Hz', crema_d, 22_050, tmp, args.repeats),
            reading(f'Reading whole: {kind}, to 22,050 Hz mono', ten, 22_050, tmp, args.repeats),
            *[reading(f'Reading parts: random 3 s of 60 s at 44.1 kHz stereo ({ext}), to 16 kHz mono', files, 16_000, tmp, args.repeats, 3, 60) for ext,files in long.items()],
            spectrograms('Reading and spectrogram: 2.5 s of 22,050 Hz', short, tmp, args.repeats),
            spectrograms('Reading and spectrogram: 2.5 s of 16,000 Hz mono, as CREMA-D has them', crema_d, tmp, args.repeats),
            spectrograms(f'Reading and spectrogram: {kind}', ten, tmp, args.repeats),
            pictures(make_pictures(tmp/'pictures', 66), args.repeats), digits(args.repeats), chunks(args.repeats)]
        (here/'input.md').write_text('\n'.join(parts), encoding='utf-8')
