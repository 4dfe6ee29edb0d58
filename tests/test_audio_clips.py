"Real recordings: sound and frames of video files in seven containers, and what a damaged or silent one does"
import warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest, soundfile as sf, torch
from fastai.data.block import CategoryBlock
from fastai.data.transforms import ColReader, ColSplitter, IndexSplitter
from fastai.vision.augment import Resize
from fastcore.basics import noop
av = pytest.importorskip('av')
from mmbalance.data.audio import AudioBlock, MelSpecBlock
from mmbalance.data.pairs import MultimodalDataBlock, SkippedItems
from mmbalance.data.video import FramesBlock, frame_places, read_frames
from mmbalance.inputs import ItemError
from mmbalance.layers.encoders import ConvEncoder
from mmbalance.learner import fusion_learner
from mmbalance.media import audio_extensions, media_extensions, read_audio, video_extensions, _write_track

torch.set_num_threads(1)
clips = next((o for p in Path(__file__).parents if (o := p/'shared/data/clips').is_dir()), Path('no clips'))
needs_clips = pytest.mark.skipif(not clips.is_dir(), reason='no folder with clips')
tracks = dict(bunny_0_30='webm 30.02 44100 2', bunny_10s='flv 10.03 44100 2', chaplin='mp4 9.61 44100 2', cockatoo='mp4 13.90 16000 1',
    nasa_13013='mp4 13.06 8000 2', talking_head_bbaf2n='mpg 2.98 44100 2', talking_head_lbax4n='avi 3.00 44100 2')

def clip(name): return clips/f'{name}.{tracks[name].split()[0]}'

@needs_clips
@pytest.mark.parametrize('name', tracks)
def test_track(name):
    _,length,rate,channels = tracks[name].split()
    x,sr = read_audio(clip(name))
    assert (sr, len(x))==(int(rate), int(channels)) and abs(x.shape[1]/sr-float(length))<.01
    assert (x.abs().max()==0)==(name=='cockatoo')

@needs_clips
@pytest.mark.parametrize('name', tracks)
@pytest.mark.parametrize('start', [.5,1.5,.9])
def test_part_of_a_track(name, start):
    "A part is the same sound as in the whole, at the same time to a millisecond"
    x,sr = read_audio(clip(name))
    if start==.9: start = .9*x.shape[1]/sr-.3
    part,_ = read_audio(clip(name), start=start, length=.3)
    assert part.shape==(len(x), round(.3*sr)) or abs(part.shape[1]-.3*sr)<=1
    i,n = round(start*sr),part.shape[1]-10
    if x.abs().max(): assert min((x[:,i+k:i+k+n]-part[:,:n]).abs().max() for k in range(-sr//1000, sr//1000+1))<1e-3

@needs_clips
@pytest.mark.parametrize('name', tracks)
def test_frames(name):
    frames = read_frames(clip(name), frame_places(3, train=False))
    assert len(frames)==3 and len({o.size for o in frames})==1
    assert not np.array_equal(*map(np.array, frames[:2]))

@needs_clips
def test_no_track_and_damage_are_named():
    with pytest.raises(ValueError, match='bikes_no_audio.mp4 has no sound track'): read_audio(clips/'bikes_no_audio.mp4')
    for read in read_audio, lambda fn: read_frames(fn, [.5]):
        with pytest.raises(ValueError, match='truncated.mp4 cannot be read as video'): read(clips/'truncated.mp4')

@pytest.mark.parametrize('name,codec,rate', [('a.aac','aac',16_000), ('a.m4a','aac',16_000), ('a.opus','libopus',48_000), ('a.oga',None,16_000), ('a.aiff',None,16_000), ('A.WAV',None,16_000)])
def test_sounds_of_other_formats(tmp_path, name, codec, rate):
    "Read whole and in parts; a sound is no clip, and a path of one that is not there is no text"
    fn,x = tmp_path/name,.5*np.sin(np.arange(6*rate)**2*1e-6*(16_000/rate)**2)
    if codec is None: sf.write(fn, x, rate, format={'.oga': 'OGG'}.get(fn.suffix))
    else:
        with av.open(str(fn), 'w') as c: _write_track(c, c.add_stream(codec, rate=rate, layout='mono'), x, rate)
    whole,sr = read_audio(fn)
    assert sr==rate and len(whole)==1 and abs(whole.shape[1]/sr-6)<.15
    part,_ = read_audio(fn, start=3., length=.5)
    lag = min(range(-40, 41), key=lambda k: (whole[:,3*sr+k:][:,:sr//2]-part).abs().mean())
    assert part.shape[1]==sr//2 and abs(lag)<=16*(name=='a.aac') and (whole[:,3*sr+lag:][:,:sr//2]-part).abs()[:,sr//4:].max()<.02
    assert {fn.suffix.lower()}<=audio_extensions and fn.suffix.lower() not in video_extensions and fn.suffix.lower() in media_extensions

def clip_block(**kwargs):
    return MultimodalDataBlock(audio=MelSpecBlock(length=2), frames=FramesBlock(2), y=CategoryBlock, get_x=[noop, noop],
        get_y=lambda o: str(len(Path(o).stem)%2), item_tfms=Resize(32), **kwargs)

@needs_clips
def test_learn_and_predict_on_one_video():
    files = [clip(o) for o in tracks]
    dls = clip_block(splitter=IndexSplitter([5,6])).dataloaders(files, bs=2, num_workers=0)
    learn = fusion_learner(dls, dict(audio=ConvEncoder, frames=ConvEncoder))
    with learn.no_bar(): learn.fit(1, 1e-3)
    label,_,probs = learn.predict(clip('chaplin'))
    assert label in dls.vocab and torch.allclose(probs, learn.predict(str(clip('chaplin')))[2])
    assert torch.allclose(probs, learn.predict((clip('chaplin'), clip('chaplin')))[2])
    preds,_ = learn.get_preds(dl=dls.test_dl(files))
    assert torch.allclose(preds[2], probs, atol=1e-6)

@needs_clips
@pytest.mark.parametrize('num_workers', [0,2])
def test_skip_in_training(num_workers):
    "Training goes on without the damaged clip and says so; validation and the default raise; silence is no error"
    files = [clip(o) for o in tracks]+[clips/'truncated.mp4', clips/'bikes_no_audio.mp4']
    dls = clip_block(splitter=IndexSplitter([0]), on_error='skip').dataloaders(files, bs=2, num_workers=num_workers)
    with pytest.warns(SkippedItems, match=r'(?s)2 of 8 training items were skipped.*truncated.*bikes_no_audio'): n = sum(len(b[0]) for b in dls.train.new(shuffle=False, drop_last=False))
    assert n==6
    with pytest.raises(ItemError, match='truncated.mp4|bikes_no_audio.mp4'): list(clip_block(splitter=IndexSplitter([0])).dataloaders(files, bs=2, num_workers=num_workers).train)
    with pytest.raises(ItemError, match='truncated.mp4'): list(clip_block(splitter=IndexSplitter([7]), on_error='skip').dataloaders(files, bs=2, num_workers=num_workers).valid)

@pytest.fixture
def sounds(tmp_path):
    sf.write(tmp_path/'good.wav', np.sin(np.arange(800)), 8000)
    (tmp_path/'bad.wav').write_bytes(b'RIFF, but no more')
    return tmp_path

def sound_block(path, **kwargs):
    return MultimodalDataBlock(audio=AudioBlock(sr=8000, length=.1), y=CategoryBlock, get_x=ColReader('audio', pref=path), splitter=ColSplitter(), **kwargs)

def rows(n, bad):
    df = pd.DataFrame(dict(audio='good.wav', label=[str(i%2) for i in range(n)], is_valid=[i==n-1 for i in range(n)]))
    df.loc[list(bad), 'audio'] = 'bad.wav'
    return df

def test_one_among_ten_thousand(sounds):
    dls = sound_block(sounds).dataloaders(rows(10_000, [7654]), bs=64, num_workers=0)
    with pytest.raises(ItemError, match=r'Row 7654 \(audio=bad.wav'): list(dls.train)

@pytest.mark.parametrize('num_workers', [0,2])
def test_names_at_the_end_of_each_epoch(sounds, num_workers):
    dls = sound_block(sounds, on_error='skip').dataloaders(rows(60, [0,5,41]), bs=8, num_workers=num_workers)
    for _ in range(2):
        with pytest.warns(SkippedItems, match='3 of 59 training items were skipped'): n = sum(len(b[0]) for b in dls.train)
        # each worker drops its own last incomplete batch
        assert (n==56 if num_workers==0 else 40<=n<=56) and [o.split()[1] for o in dls.train.skipped]==['0','41','5']
    log = Path(dls.train.log)
    assert log.exists()
    del dls
    import gc; gc.collect()
    assert not log.exists()

def test_nothing_left(sounds):
    dls = sound_block(sounds, on_error='skip').dataloaders(rows(10, range(1,9)), bs=1, num_workers=0)
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); assert sum(1 for _ in dls.train)==1
    df = rows(10, range(9))
    with pytest.raises(ItemError, match='None of the 9 items'): list(sound_block(sounds, on_error='skip').dataloaders(df, bs=1, num_workers=0).train)

def test_on_error_is_checked(sounds):
    with pytest.raises(ValueError, match="take 'raise' or 'skip'"): sound_block(sounds, on_error='ignore').dataloaders(rows(4, []), bs=2, num_workers=0)
