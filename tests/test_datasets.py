"From each owner's layout, made of real clips, to a trained epoch; and what the lists and folders of the field can do to a reader"
import csv, os, shutil, tarfile, warnings
from functools import partial
from itertools import product
from pathlib import Path
import numpy as np, pandas as pd, pytest, soundfile as sf, torch
from PIL import Image
from scipy.signal import spectrogram
import fastai.callback.schedule  # noqa: fit_one_cycle
from fastai.vision.augment import Flip, FlipItem
from mmbalance.data.audio import LoadAudio, MelSpecBlock, audio_presets
from mmbalance.data.spectrogram import ToFilterBank, ToPowerSpec, ToSpec
from mmbalance.data.core import TensorAudio
from mmbalance.data.pairs import ItemError, MultimodalDataLoaders, SkippedItems
from mmbalance.data.video import FramesBlock, LoadSegments, segment_frames
from mmbalance.datasets.ave import EventFramesBlock, ave, ave_items, ave_report, read_event
from mmbalance.datasets.clips import clip_folder, clip_folder_items
from mmbalance.datasets.core import MissingMedia, field_tfms, make_clip
from mmbalance.datasets.files import read_rows
from mmbalance.datasets.prepare import prepare
from mmbalance.datasets.crema_d import crema_d, crema_d_items, emotions, parse_name, sentences
from mmbalance.datasets.kinetics_sounds import kinetics_classes, kinetics_sounds, kinetics_sounds_items, read_list, video_of
from mmbalance.datasets.ucf101 import FlowBlock, PILFlowU, ucf101, ucf101_items
from mmbalance.datasets.vggsound import vggsound, vggsound_items
from mmbalance.layers.encoders import ConvEncoder
from mmbalance.learner import fusion_learner
from mmbalance.media import open_video, read_audio, write_video
from mmbalance.shard_reader import Shards
import mmbalance.shard_loaders, mmbalance.shards  # to_shards, from_shards
from mmbalance.splits import hold_out, leaks

torch.set_num_threads(1)
shared = next((o for p in Path(__file__).parents if (o := p/'shared/data/clips').is_dir()), Path('no clips'))
needs_clips = pytest.mark.skipif(not shared.is_dir(), reason='no folder with clips')
small = dict(audio=partial(MelSpecBlock, sr=8000, length=1, n_mels=24), frames=partial(FramesBlock, 2))

def excerpt(fn, out, seconds=1.2, size=(80,60)):
    "The begin of a real clip, small, in the container of `out`"
    x,sr = read_audio(fn, length=seconds)
    with open_video(fn) as c: frames = [f.reformat(*size, 'rgb24').to_ndarray() for _,f in zip(range(int(12*seconds)), c.decode(video=0))]
    write_video(out, frames, 12, x.mean(0).numpy()[::max(1, sr//22_050)].clip(-1, 1), 22_050)

@pytest.fixture(scope='session')
def bits(tmp_path_factory):
    "Excerpts of four real clips, by class and extension"
    if not shared.is_dir(): pytest.skip('no folder with clips')
    path = tmp_path_factory.mktemp('bits')
    for (i,fn),ext in product(enumerate(('talking_head_bbaf2n.mpg','chaplin.mp4','bunny_10s.flv','talking_head_lbax4n.avi')), ('.flv','.avi','.mp4')): excerpt(shared/fn, path/f'{i}{ext}')
    return path

def put(bits, i, fn):
    "A copy of excerpt `i` at `fn`"
    fn.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(bits/f'{i%4}{fn.suffix}', fn)

def write(fn, lines, bom=False, end='\r\n'):
    fn.parent.mkdir(parents=True, exist_ok=True)
    fn.write_bytes((b'\xef\xbb\xbf' if bom else b'')+end.join([*lines,'']).encode())

# Miniatures in the owners' layouts

crema_names = [f'{a}_{s}_{e}_{l}' for a,s,l in ((1001,'IEO','HI'),(1002,'TIE','XX'),(1003,'DFA','XX'),(1004,'MTI','XX')) for e in emotions]
def mini_crema(path, bits):
    for i,n in enumerate(crema_names):
        put(bits, i, path/f'VideoFlash/{n}.flv')
        for d,ext in ('AudioWAV','wav'),('AudioMP3','wav'):
            (path/d).mkdir(exist_ok=True)
            sf.write(path/f'{d}/{n}.{ext}', np.full(8000, .1*(d=='AudioWAV')), 8000)
        if d=='AudioMP3': (path/f'{d}/{n}.wav').rename(path/f'{d}/{n}.mp3')
    test = crema_names[3:24:6]+crema_names[4:24:6]
    for fn,part in ('train.csv', [n for n in crema_names if n not in test]),('test.csv',test): write(path/fn, [f'{n},{parse_name(n)[2]}' for n in part], bom=True)
    return partial(crema_d, path, n_frames=1)

ks_names = [f'_{i:02}-a_bcd-e_{i:06}_{i+10:06}' for i in range(12)]
def mini_ks(path, bits):
    y = [(12,25)[i%2] for i in range(12)]
    for i,n in enumerate(ks_names): put(bits, i, path/f'train/{kinetics_classes[y[i]]}/{n}.mp4')
    write(path/'my_train.txt', [f'{n},10,{k}' for n,k in zip(ks_names[:8], y)])
    write(path/'my_test.txt', [f'{n[:11]}_{i}, 10, {k}' for i,(n,k) in enumerate(zip(ks_names[8:], y[8:]))])
    write(path/'b_train.txt', [f'{n} {k}' for n,k in zip(ks_names[:8], y)], end='\n')
    write(path/'b_test.txt', [f'{n} {k}' for n,k in zip(ks_names[8:], y[8:])], end='\n')
    return partial(kinetics_sounds, path, valid_pct=.25)

vgg_ids = [f'{i:09}E{i%10}' for i in range(6)] + ['-----------','___________','nannannan_1','=1+1=2abcde','1.000000000','0x123456789']
vgg_labels = ['people eating, drinking','dog barking','"quoted" sound']
def mini_vgg(path, bits):
    "The folders of the OGM-GE reader: sounds and folders of frames apart, folders with the extension of their video"
    with open(path/'vggsound.csv', 'w', newline='', encoding='utf-8-sig') as f:
        csv.writer(f).writerows([(o, 30*i, vgg_labels[i%3], 'test' if i>8 else 'train') for i,o in enumerate(vgg_ids)])
    for i,o in enumerate(vgg_ids):
        part = 'test' if i>8 else 'train'
        if i%2: put(bits, i, path/f'video/{o}_{30*i:06}.mp4'); continue
        (d := path/f'{part}-videos/{part}-set-img/Image-01-FPS/{o}_{30*i}.mp4').mkdir(parents=True)
        for k in range(10): Image.fromarray(np.full((48,64,3), 20*k, 'uint8')).save(d/f'{k+1:05}.jpg')
        (w := path/f'{part}-audios/{part}-set').mkdir(parents=True, exist_ok=True)
        sf.write(w/f'{o}_{30*i}.wav', .1*np.sin(np.arange(16_000)), 16_000)
    return partial(vggsound, path, valid_pct=.3)

ave_ids = [f'-{i:02}_abcdefg' for i in range(14)]
def mini_ave(path, bits):
    rows = [('Church bell','Male speech, man speaking')[i%2]+f'&{o}&good&{i%3}&{i%3+5}' for i,o in enumerate(ave_ids)]
    rows[2] = f'Church bell&{ave_ids[2]}&good&4&4'
    write(path/'trainSet.txt', ['Category&VideoID&Quality&Start&End']+rows[:8]+[f'Male speech, man speaking&{ave_ids[0]}&good&5&9', rows[3], f'Church bell&{ave_ids[9]}&good&0&5'], bom=True)
    write(path/'valSet.txt', rows[8:11])
    write(path/'testSet.txt', rows[11:]+[f'Church bell&{ave_ids[1]}&good&0&5', rows[4]])
    for i,o in enumerate(ave_ids): put(bits, i, path/f'AVE/{o}.mp4')
    return partial(ave, path)

ucf_clips = [(c,f'v_{n}_g{g:02}_c0{k}') for c,n in (('Hammering','Hammering'),('HammerThrow','HammerThrow'),('HandstandPushups','HandStandPushups')) for g in (1,2,3,4) for k in (1,2)]
def mini_ucf(path, bits):
    for i,(c,n) in enumerate(ucf_clips):
        put(bits, i, path/f'UCF-101/{c}/{n}.avi')
        for d,slope in ('u',90),('v',20):
            (path/d/n).mkdir(parents=True)
            for k in range(12): Image.fromarray(np.tile(np.linspace(128, 128+slope, 64).astype('uint8'), (48,1))).save(path/f'{d}/{n}/frame{k+1:06}.jpg', quality=95)
    lists = path/'ucfTrainTestlist'
    write(lists/'classInd.txt', ['1 Hammering','2 HammerThrow','3 HandstandPushups'])
    number = dict(Hammering=1, HammerThrow=2, HandstandPushups=3)
    write(lists/'trainlist01.txt', [f'{c}/{n}.avi {number[c]}' for c,n in ucf_clips if 'g01' not in n])
    write(lists/'testlist01.txt', [f'{c}/{n}.avi' for c,n in ucf_clips if 'g01' in n])
    return partial(ucf101, path, valid_pct=.3)

def mini_clips(path, bits):
    for i in range(12): put(bits, i, path/f'{("dog","cat")[i%2]}/{i//3}_{i%3}{(".mp4",".avi",".flv")[i%3]}')
    return partial(clip_folder, path, valid_pct=.25, test_pct=.25)

minis = dict(crema_d=mini_crema, kinetics_sounds=mini_ks, vggsound=mini_vgg, ave=mini_ave, ucf101=mini_ucf, clips=mini_clips)

@pytest.fixture
def mini(request, tmp_path, bits): return tmp_path,minis[request.param](tmp_path, bits)
def of(*names): return pytest.mark.parametrize('mini', names or list(minis), indirect=True)

@of()
def test_raw_layout_to_one_cycle(mini, request):
    "Each owner's layout goes to a trained epoch, with a test part that nobody else sees"
    name = request.node.callspec.params['mini']
    blocks = small if name!='ucf101' else dict(frames=small['frames'], flow=partial(FlowBlock, 2))
    dls = mini[1](blocks=blocks, size=32, bs=4, num_workers=0)
    assert dls.parts==['train','valid','test'] and dls.test is dls[2] and dls.protocol==dls.table.attrs['protocol']
    learn = fusion_learner(dls, {m: ConvEncoder for m in blocks})
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-3)
    preds,y = learn.get_preds(ds_idx=2)
    assert len(preds)==(dls.table.split=="test").sum()>1 and torch.isfinite(preds).all()
    assert [dls.vocab[i] for i in y]==dls.table.label[dls.table.split=='test'].tolist()
    assert list(dls.vocab)==dls.table.attrs['vocab']
    names = [set(dls.table.name[dls.table.split==k]) for k in dls.parts]
    assert not (names[0]&names[1] or names[0]&names[2])

shapes = dict(crema_d=((257,188), (3,1)), kinetics_sounds=((1024,128), (3,3)), vggsound=((129,626), (3,3)), ave=((257,1004), (3,3)))
@of(*shapes)
def test_presets_have_the_published_shapes(mini, request):
    audio,frames = shapes[request.node.callspec.params['mini']]
    b = mini[1](bs=2, num_workers=0).one_batch()
    assert (b[0].shape, b[1].shape)==((2,1,*audio), (2,*frames,224,224))

# What a listing can do

@of()
def test_order_of_the_file_system_plays_no_part(mini, monkeypatch):
    path,make = mini
    blocks = dict(frames=small['frames'])
    table = make(blocks=blocks, num_workers=0, bs=2).table
    walk = os.walk
    def shuffled(top, **kwargs):
        for root,dirs,files in walk(top, **kwargs): dirs.reverse(); yield root,dirs,files[::-1]
    monkeypatch.setattr(os, 'walk', shuffled)
    again = make(blocks=blocks, num_workers=0, bs=2).table
    pd.testing.assert_frame_equal(table, again)
    assert table.attrs==again.attrs

@of('crema_d','kinetics_sounds','vggsound')
def test_a_missing_clip_is_named_and_moves_no_other(mini):
    path,make = mini
    make = partial(make, blocks=dict(frames=small['frames']), num_workers=0, bs=2)
    whole = make().table
    gone = whole[whole.split=='train'].iloc[0]
    f = path/gone.frames
    shutil.rmtree(f) if f.is_dir() else f.unlink()
    with pytest.warns(MissingMedia, match=f'^1 of {len(whole)} clips of .* {gone["name"]} \\(frames\\)'): part = make().table
    assert part.attrs['missing']=={gone['name']: 'frames'} and part.attrs['vocab']==whole.attrs['vocab'] and '1 clips missing' in part.attrs['protocol']
    left = whole[whole.name!=gone['name']].reset_index(drop=True)
    pd.testing.assert_frame_equal(left, part, check_like=True)

@of()
def test_a_wrong_folder_says_what_was_looked_for_and_found(mini, tmp_path_factory):
    path,make = mini
    other = tmp_path_factory.mktemp('other')
    for o in path.iterdir():
        if o.suffix in ('.txt','.csv'): shutil.copy(o, other)
    if (path/'ucfTrainTestlist').is_dir(): shutil.copytree(path/'ucfTrainTestlist', other/'ucfTrainTestlist')
    (other/'holiday.txt').touch()
    with pytest.raises(FileNotFoundError, match=r'(?s)looked for .*holds .*holiday\.txt'): make.func(other)
    with pytest.raises(FileNotFoundError, match='no folder|no .*csv|list'): make.func(other/'none')

# Where a reader looks

def still(fn, picture):
    fn.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(fn, quality=95)

@of()
def test_preparation_in_another_folder(mini, tmp_path_factory):
    "What `--out` wrote is found with `prepared`, wherever it lies, and nothing else changes; what lies in `prepared` is then left alone"
    path,make = mini
    out,blocks = tmp_path_factory.mktemp('out')/'o',dict(frames=small['frames'])
    table = make(blocks=blocks, num_workers=0, bs=2).table
    prepare(path, out=out, jobs=1, progress=False, size=16)
    assert make(blocks=blocks, num_workers=0, bs=2).table.frames.tolist()==table.frames.tolist()
    for place in out,path/'elsewhere':
        if place!=out: shutil.move(out, place)
        dls = make(blocks=blocks, num_workers=0, bs=2, prepared=place, size=8)
        video = np.array([(path/o).is_file() for o in table.frames])  # the miniature of VGGSound has folders of frames, too
        assert all((path/o/'00001.jpg').is_file() and place in (path/o).parents for o in dls.table.frames[video]) and video.sum()>5
        assert dls.table.drop(columns='frames').equals(table.drop(columns='frames')) and len(dls.one_batch()[0])==2
    with pytest.raises(FileNotFoundError, match='no folder that `mmbalance-prepare` wrote to'): make(prepared=path/'none')

@of('kinetics_sounds')
def test_a_clip_that_a_preparation_found_mute_lacks_sound(mini):
    path,_ = mini
    fn = next(path.rglob(f'{ks_names[0]}.mp4'))
    write_video(fn, [np.zeros((32,32,3), 'uint8')]*6, 6)
    assert not kinetics_sounds_items(path).attrs['missing']  # nobody has looked into it
    prepare(path, 'kinetics-sounds', jobs=1, progress=False)
    with pytest.warns(MissingMedia, match=f'{ks_names[0]} \\(audio\\)'): df = kinetics_sounds_items(path)
    assert df.attrs['missing']=={ks_names[0]: 'audio'} and len(df)==11
    assert len(kinetics_sounds_items(path, need=('frames',)))==12
    sf.write(path/f'{ks_names[0]}.wav', np.zeros(800), 8000)
    assert len(kinetics_sounds_items(path))==12

@of('crema_d')
def test_misspelt_arguments_are_no_silence(mini):
    _,make = mini
    with pytest.raises(TypeError, match='CREMA-D nor .*protcol'): make(protcol='by_actor')
    with pytest.raises(ValueError, match='CREMA-D has no video, only audio, frames'): make(blocks=dict(audio=small['audio'], video=small['frames']))
    make(batch_size=2, num_workers=0, val_bs=3, shuffle=False, blocks=small)

@of('kinetics_sounds')
def test_frames_of_a_clip_are_cropped_and_mirrored_alike(mini):
    "One draw for a clip, another for the next one; ImageNet's numbers on top"
    path,make = mini
    noise = np.random.default_rng(0).integers(0, 255, (40,50,3), dtype='uint8')
    for n in ks_names:
        for k in 1,2,3: still(path/f'prepared/frames/{n}/{k:05}.jpg', noise)
    kwargs = dict(blocks=dict(frames=FramesBlock(3)), size=16, bs=6, num_workers=0)
    x = make(batch_tfms=[], **kwargs).train.one_batch()[0].as_subclass(torch.Tensor)
    assert torch.equal(x[:,:,:1].expand_as(x), x) and len({o.sum().item() for o in x})==6
    plain,norm = (make(**o, **kwargs).valid.one_batch()[0].as_subclass(torch.Tensor).cpu() for o in (dict(batch_tfms=[]), {}))
    mean,std = (torch.tensor(o)[:,None,None,None] for o in ((.485,.456,.406), (.229,.224,.225)))
    assert torch.allclose(norm, (plain-mean)/std, atol=1e-5)

@of('crema_d')
def test_mac_and_preparation(mini):
    "A dot file beside each real one is no clip; what a preparation wrote is taken for frames, and the owner's sound stays"
    path,_ = mini
    name = crema_names[0]
    (path/f'VideoFlash/._{name}.flv').write_bytes(b'resource')
    (path/f'prepared/frames/{name}').mkdir(parents=True); (path/'prepared/audio').mkdir()
    Image.new('RGB', (8,8)).save(path/f'prepared/frames/{name}/00001.jpg')
    sf.write(path/f'prepared/audio/{name}.wav', np.zeros(800), 8000)
    df = crema_d_items(path).set_index('name')
    assert df.frames[name]==f'prepared/frames/{name}' and df.audio[name]==f'AudioWAV/{name}.wav'
    shutil.rmtree(path/'AudioWAV'); shutil.rmtree(path/'AudioMP3')
    df = crema_d_items(path).set_index('name')
    assert df.audio[name]==f'prepared/audio/{name}.wav' and df.audio[crema_names[1]]==f'VideoFlash/{crema_names[1]}.flv'

@of('kinetics_sounds')
def test_preparation_in_the_folders_of_the_clips(mini):
    "Found by the name alone, and a test clip of list A by its video"
    path,_ = mini
    for n in ks_names[0],ks_names[9]:
        (d := path/f'prepared/frames/train/some_class/{n}').mkdir(parents=True)
        Image.new('RGB', (8,8)).save(d/'00001.jpg')
    df = kinetics_sounds_items(path)
    assert [o.startswith('prepared/') for o in df.frames]==[i in (0,9) for i in range(12)] and not df.audio.str.startswith('prepared/').any()

def test_two_files_for_one_clip_are_refused(tmp_path, bits):
    mini_ks(tmp_path, bits)
    put(bits, 0, tmp_path/f'again/{ks_names[0]}.avi')
    with pytest.raises(ValueError, match=f'{ks_names[0]} is there 2 times: again/'): kinetics_sounds_items(tmp_path)

@needs_clips
def test_damaged_clips_in_training(tmp_path, bits):
    "A cut file and one without sound: an error that names the row, or training goes on and names them at the end"
    for i in range(8): put(bits, i, tmp_path/f'train/{("a","b")[i%2]}/{i}.mp4')
    for i in range(2): put(bits, i, tmp_path/f'valid/{("a","b")[i]}/{i}.mp4')
    for fn,o in ('truncated','cut'),('bikes_no_audio','mute'): shutil.copy(shared/f'{fn}.mp4', tmp_path/f'train/a/{o}.mp4')
    with pytest.raises(ItemError, match='name=train/a/(cut|mute)'): [b for b in clip_folder(tmp_path, dict(small), size=32, bs=2, num_workers=0).train]
    dls = clip_folder(tmp_path, dict(small), size=32, bs=2, num_workers=0, on_error='skip')
    assert dls.parts==['train','valid']
    with pytest.raises(ValueError, match='no test part'): dls.test
    with pytest.warns(SkippedItems, match='(?s)2 of 10 training items.*train/a/cut.*train/a/mute'): [b for b in dls.train]

@needs_clips
def test_silence_is_a_sound(tmp_path):
    for i in range(4): (tmp_path/'ab'[i%2]).mkdir(exist_ok=True); shutil.copy(shared/'talking_head_bbaf2n.mpg', tmp_path/f'{"ab"[i%2]}/{i}.mpg')
    x = audio_presets['vggsound']().type_tfms[0](shared/'cockatoo.mp4', split_idx=1)
    assert x.shape==(1,80_000) and not x.any()
    assert len(clip_folder_items(tmp_path, valid_pct=.5))==4

# CREMA-D

def test_crema_names():
    for s,e in product(sentences, emotions): assert parse_name(f'1091_{s}_{e}_XX')==('1091', s, e, 'XX')
    assert len(set(sentences))==12 and sorted(emotions.values())==list(range(6))
    for o in '1001_IEO_NEU','1001_ieo_NEU_XX','1001_IEO_NEU_XX.flv','x_IEO_NEU_XX':
        with pytest.raises(ValueError, match='expected actor'): parse_name(o)

def test_crema_labels_are_the_fields(): assert emotions==dict(NEU=0, HAP=1, SAD=2, FEA=3, DIS=4, ANG=5)

@of('crema_d')
def test_crema_level_x(mini, tmp_path):
    "The owner's set has a sound whose level is written X; it is the clip that the list calls XX, or the other way round"
    path = tmp_path/'crema'
    shutil.copytree(mini[0], path)
    want = crema_d_items(path, protocol='by_actor')
    wav = next(o for o in sorted((path/'AudioWAV').iterdir()) if o.stem.endswith('_XX'))
    wav.rename(wav.with_name(wav.stem[:-1]+'.wav'))
    for protocol in 'by_actor','field':
        df = crema_d_items(path, protocol=protocol)
        assert len(df)==len(want) and not df.attrs['missing'] and df.set_index('name').audio[wav.stem].endswith('_X.wav')
    assert parse_name('1040_ITH_SAD_X')==parse_name('1040_ITH_SAD_XX')

@of('crema_d')
def test_crema_protocols(mini):
    path,_ = mini
    field,actor = crema_d_items(path),crema_d_items(path, protocol='by_actor')
    assert len(field)==len(actor)==24 and (field.split=='test').sum()==8
    assert len(leaks(field, 'actor'))>0 and len(leaks(field[field.split!='test'], 'actor'))==0 and len(leaks(actor, 'actor'))==0
    assert set(actor.split)=={'train','valid','test'} and 'all actors in both parts' in field.attrs['protocol'] and 'by actor' in actor.attrs['protocol']
    assert len(field.attrs['lists']['train.csv'])==64 and field.attrs['lists']['train.csv'][:12] in field.attrs['protocol'] and actor.attrs['lists']=={}
    assert field.attrs['counts']==dict(train=dict(published=6698, listed=16), test=dict(published=744, listed=8))
    none = crema_d_items(path, valid_pct=0)
    assert set(none.split)=={'train','test'} and 'stands in its place' in none.attrs['protocol']
    with pytest.raises(ValueError, match="take 'field'"): crema_d_items(path, protocol='standard')

@of('crema_d')
def test_crema_actors_are_drawn_whichever_clips_are_there(mini):
    "Five of six clips of an actor may be gone: everybody stays where they were"
    path,_ = mini
    for i in range(5,21): shutil.copy(path/f'VideoFlash/{crema_names[0]}.flv', path/f'VideoFlash/{1000+i}_IEO_NEU_XX.flv')
    def part(**kwargs): return crema_d_items(path, protocol='by_actor', need=('frames',), **kwargs).groupby('actor').split.first().to_dict()
    want = {seed: part(seed=seed) for seed in range(4)}
    assert sorted(want[0].values()).count('test')==2 and sorted(want[0].values()).count('valid')==2 and len({str(o) for o in want.values()})>1
    for o in path.rglob('100[1-4]_*'):
        if '_HAP_' not in o.name: o.unlink()
    assert {seed: part(seed=seed) for seed in range(4)}==want
    assert 'for validation' in crema_d_items(path, protocol='by_actor', need=('frames',)).attrs['protocol']
    df = crema_d_items(path, protocol='by_actor', need=('frames',), valid_pct=0)
    assert set(df.split)=={'train','test'} and 'stands in its place' in df.attrs['protocol']
    (path/'VideoFlash/my_own_home_video.flv').touch()
    with pytest.raises(ValueError, match="'my_own_home_video' is no clip .* Take VideoFlash/my_own_home_video.flv away"): crema_d_items(path, protocol='by_actor')

@of('crema_d')
def test_crema_lists(mini):
    path,_ = mini
    df = crema_d_items(path)
    for fn in 'train.csv','test.csv': write(path/'codes'/fn, [f'{n},{emotions[y]}' for n,y in read_rows(path/fn)], end='\n')
    pd.testing.assert_frame_equal(df, crema_d_items(path, lists=path/'codes'))  # numbers for labels
    rows = [','.join(o) for o in read_rows(path/'train.csv')]
    write(path/'twice.csv', rows+rows[:1])
    with pytest.raises(ValueError, match='stand more than once'): crema_d_items(path, lists=(path/'twice.csv', path/'test.csv'))
    with pytest.raises(ValueError, match='stand more than once'): crema_d_items(path, lists=(path/'train.csv', path/'train.csv'))
    write(path/'wrong.csv', [rows[0].replace('NEU\r', 'ANG').split(',')[0]+',ANG'])
    with pytest.raises(ValueError, match='its name says NEU'): crema_d_items(path, lists=(path/'wrong.csv', path/'test.csv'))
    (path/'train.csv').unlink()
    with pytest.raises(FileNotFoundError, match=r"no train.csv in .*holds .*VideoFlash.*by_actor"): crema_d_items(path)

@of('crema_d')
def test_crema_pointers_of_git_lfs(mini):
    path,_ = mini
    (path/f'VideoFlash/{crema_names[5]}.flv').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n')
    with pytest.raises(ValueError, match=f'1 files, such as .*{crema_names[5]}.flv, are pointers of Git LFS'): crema_d_items(path)

# Kinetics-Sounds

def test_kinetics_classes():
    assert len(kinetics_classes)==31 and kinetics_classes==sorted(set(kinetics_classes))
    assert [kinetics_classes[i] for i in (0,12,30)]==['blowing_nose','playing_guitar','tickling']

@of('kinetics_sounds')
def test_lists_a_and_b_are_not_mixed(mini):
    path,_ = mini
    b = (path/'b_train.txt', path/'b_test.txt')
    tables = dict(A=kinetics_sounds_items(path), B=kinetics_sounds_items(path, lists=b))
    for k,df in tables.items(): assert f'list {k}' in df.attrs['protocol'] and len(df)==12 and len(leaks(df, 'video'))==0
    assert tables['A'].frames.tolist()==tables['B'].frames.tolist()  # a test clip of list A is found by its video
    for mixed in (path/'my_train.txt', b[1]),(b[0], path/'my_test.txt'):
        with pytest.raises(ValueError, match='not to be mixed'): kinetics_sounds_items(path, lists=mixed)
    write(path/'both.txt', [*(path/'my_test.txt').read_text().splitlines(), *b[1].read_text().splitlines()])
    with pytest.raises(ValueError, match='4 rows of list A .*, 4 of list B'): read_list(path/'both.txt')
    write(path/'b34.txt', [f'{ks_names[0]} 33'])
    with pytest.raises(ValueError, match=r'classes 33, but .*34 classes'): kinetics_sounds_items(path, lists=(path/'b34.txt', b[1]))

@of('kinetics_sounds')
def test_companion_of_list_a(mini, bits):
    "Kinetics' validation clips are the validation part, in either format; beside list B, or with videos of the other parts, they are refused"
    path,make = mini
    more = [f'new{i}-bcd_ef_{i:06}_{i+10:06}' for i in range(3)]
    for i,n in enumerate(more): put(bits, i, path/f'val/x/{n}.mp4')
    for row in '{},10,12','{} 12':
        write(path/'third.txt', [row.format(n) for n in more])
        lists = [path/o for o in ('my_train.txt','my_test.txt','third.txt')]
        df = kinetics_sounds_items(path, lists=lists)
        assert df.split.value_counts().to_dict()==dict(train=8, test=4, valid=3) and df.name[df.split=='valid'].tolist()==more and len(leaks(df, 'video'))==0
        assert 'companion' in df.attrs['protocol'] and 'valid 3 (published: 1,320)' in df.attrs['protocol'] and 'of train' not in df.attrs['protocol'] and len(df.attrs['lists'])==3
        with pytest.raises(ValueError, match='goes with list A alone'): kinetics_sounds_items(path, lists=[path/'b_train.txt', path/'b_test.txt', path/'third.txt'])
    assert make(lists=lists, blocks=small, num_workers=0, bs=2, valid_pct=.1).parts==['train','valid','test']
    write(path/'third.txt', [f'{ks_names[3][:11]}_000050_000060,10,12'])
    with pytest.raises(ValueError, match='1 videos of .*third.txt are in the other lists, too, such as _03-a_bcd-e'): kinetics_sounds_items(path, lists=lists)

def test_an_id_may_hold_anything(): assert video_of('_0_-_000001_000012_000022')=='_0_-_000001' and video_of('-abc_def_gh_7')=='-abc_def_gh'

# VGGSound

@of('vggsound')
def test_vggsound(mini):
    path,make = mini
    df = vggsound_items(path)
    assert df.name.tolist()==[f'{o}_{30*i}' for i,o in enumerate(vgg_ids)] and df.attrs['vocab']==sorted(vgg_labels)
    assert df.frames[0].endswith('Image-01-FPS/000000000E0_0.mp4') and df.frames[1].endswith('000000001E1_000030.mp4') and df.audio[0].endswith('000000000E0_0.wav')
    assert len(leaks(df, 'video'))==0
    dls = make(size=32, bs=3, num_workers=0)
    assert torch.equal(dls.test.one_batch()[0], dls.test.one_batch()[0])  # the middle, not a random window
    rows = read_rows(path/'vggsound.csv')
    for bad in (['abc','30','x','train'], [rows[0][0],'30s','x','train'], [rows[0][0],'30','x','val']):
        with open(path/'bad.csv', 'w', newline='') as f: csv.writer(f).writerows([rows[1], bad])
        with pytest.raises(ValueError, match='Row 2 of .* expected an id of 11 characters'): vggsound_items(path, path/'bad.csv')

# AVE

@of('ave')
def test_ave_report_and_rules(mini):
    path,_ = mini
    r = ave_report(path)
    assert r.to_dict()=={'rows train': 11, 'rows valid': 3, 'rows test': 5, 'videos train': 9, 'videos valid': 3, 'videos test': 5, 'videos': 14, 'videos with several labels': 3,
        'videos in train and valid': 1, 'videos in train and test': 2, 'videos in valid and test': 0, 'events of no length': 1}
    df = ave_items(path)
    assert len(leaks(df, 'video'))==0 and df.split.value_counts().to_dict()==dict(train=5, valid=3, test=5) and len(df.attrs['left_out'])==6
    assert {k: len(ave_items(path, duplicates=k)) for k in ('drop_all','first','last','keep')}==dict(drop_all=11, first=17, last=17, keep=19)
    labels = {k: ave_items(path, duplicates=k).set_index(['name','split']).label[ave_ids[0],'train'] for k in ('first','last')}
    assert labels==dict(first='Church bell', last='Male speech, man speaking')
    assert df.attrs['vocab']==['Church bell','Male speech, man speaking']
    event = ave_items(path, event=True)
    assert ave_ids[2] not in set(event.name) and f'{ave_ids[2]} (Church bell, train)' in event.attrs['left_out'] and event.audio[0]==f'AVE/{ave_ids[3]}.mp4#t=0,5'
    with pytest.raises(ValueError, match="take 'drop'"): ave_items(path, duplicates='none')

@of('ave')
def test_ave_rows(mini):
    path,_ = mini
    for line,text in ('Church bell&abc&good&1','has 4 fields'),('Church bell&abc&good&one&2','expected seconds'):
        write(path/'bad.txt', [line])
        with pytest.raises(ValueError, match=text): ave_items(path, lists=[path/'bad.txt', path/'valSet.txt', path/'testSet.txt'])

@pytest.fixture
def events(tmp_path):
    "Five clips of ten seconds, the last one as a sound and a folder of pictures; two events in the first"
    times = ['0&3','2&7','4.5&9','1&4','0&10','6&10']
    ids = [ave_ids[k] for k in (0,1,2,3,4,0)]
    rows = [f'{("Church bell","Truck")[i%2]}&{o}&good&{t}' for i,(o,t) in enumerate(zip(ids, times))]
    for fn,part in ('trainSet.txt',[0,1,5]),('valSet.txt',[2]),('testSet.txt',[3,4]): write(tmp_path/fn, [rows[i] for i in part])
    for i,o in enumerate(ave_ids[:4]): make_clip(tmp_path/f'AVE/{o}.mp4', i%2, 10, 4, i)
    sf.write(tmp_path/f'AVE/{ave_ids[4]}.wav', np.random.default_rng(0).uniform(-.5, .5, 220_500), 22_050)
    (d := tmp_path/f'AVE/{ave_ids[4]}').mkdir()
    for k in range(10): Image.fromarray(np.full((48,64,3), 20*k, 'uint8')).save(d/f'{k:02}.png')
    return tmp_path

def event_blocks(read=read_event, **kwargs): return dict(audio=MelSpecBlock(sr=22_050, length=2, n_mels=24, normalize=False, read=read, **kwargs), frames=EventFramesBlock(2))
def logged_event(fn, **kwargs):
    "Reads, and says so in a file"
    with open(Path(str(fn).split('/AVE/')[0])/'log', 'a') as f: f.write(f'{Path(fn).name}\n')
    return read_event(fn, **kwargs)

def in_order(dls): return [b for dl in dls for b in dl.new(shuffle=False, drop_last=False)]
def equal(a, b): return len(a)==len(b) and all(torch.equal(x, y) and type(x) is type(y) for s,t in zip(a, b) for x,y in zip(s, t, strict=True))

def test_ave_events_from_a_cache(events):
    "An array per event (the first one of training is read for the shapes of batches), made once, and made anew when the file changes"
    make = lambda **kwargs: ave(events, duplicates='keep', event=True, blocks=event_blocks(**kwargs), size=32, bs=2, num_workers=0, batch_tfms=[])
    want = in_order(make().loaders[1:])
    for k in range(2):
        assert equal(in_order(make(read=logged_event, cache=events/'cache').loaders[1:]), want)
        assert sorted((events/'log').read_text().splitlines())==sorted(f'{ave_ids[i]}.{x}#t={t}' for i,x,t in ((0,'mp4','0,3'),(2,'mp4','4.5,9'),(3,'mp4','1,4'),(4,'wav','0,10')))
    load = LoadAudio(sr=8000, start=0., read=read_event, cache=events/'cache')
    parts = [load(events/f'AVE/{ave_ids[0]}.mp4#t={t}') for t in ('0,3','6,10')]
    assert [o.shape[1] for o in parts]==[24_000,32_000] and not torch.equal(parts[0], parts[1][:,:24_000])
    make_clip(events/f'AVE/{ave_ids[0]}.mp4', 1, 10, 4, 9)
    assert not torch.equal(load(events/f'AVE/{ave_ids[0]}.mp4#t=0,3'), parts[0])
    with pytest.raises(FileNotFoundError, match='There is no audio file .*none.mp4'): load(events/'none.mp4#t=0,3')

@pytest.mark.parametrize('start,at', [(0,None), (.5,None), (0,.5), (0,.9)])
def test_a_part_of_an_event(events, start, at):
    "Where a block asks for a part, it lies in the event"
    whole,sr = read_audio(events/f'AVE/{ave_ids[4]}.wav')
    x,_ = read_event(events/f'AVE/{ave_ids[4]}.wav#t=2,7', start=start, length=2, at=at)
    i = round((2+(start if at is None else 3*at))*sr)
    assert torch.equal(x, whole[:,i:i+2*sr])

def test_ave_events_from_shards(events, tmp_path_factory):
    "The file once for both inputs, and the time of the event beside it"
    pytest.importorskip('webdataset')
    make = partial(ave, events, duplicates='keep', event=True, blocks=event_blocks(), size=32, bs=2, num_workers=0, batch_tfms=[])
    dls = make()
    folder = dls.to_shards(tmp_path_factory.mktemp('shards')/'ave')
    samples = {s.row['audio']: s for s in Shards(folder)}
    assert sorted(samples)==sorted(o for l in dls.loaders for o in l.dataset.items.audio) and len(samples)==6
    for fn,s in samples.items():
        name,_,t = fn.partition('#t=')
        assert bytes(s.inputs['audio'])==(events/name).read_bytes() and s.inputs['audio'].part==s.inputs['frames'].part==f't={t}'
        if name.endswith('.mp4'): assert s.inputs['frames'].name==s.inputs['audio'].name==Path(name).name
        else: assert [bytes(o) for o in s.inputs['frames']]==[o.read_bytes() for o in sorted((events/name[:-4]).iterdir())]
    with tarfile.open(folder/'train-000000.tar') as tar: assert sorted(o.split('.', 1)[1] for o in tar.getnames())==sorted(['audio.mp4','json']*3)
    again = MultimodalDataLoaders.from_shards(folder, event_blocks(), item_tfms=field_tfms(32), bs=2, num_workers=0)
    assert equal(in_order(again.loaders[1:]), in_order(dls.loaders[1:])) and list(again.vocab)==list(dls.vocab)
    for a,b in zip(again.train_ds, [samples[s.row['audio']] for s in again.train_ds.items]): assert a[0].shape==(1,44_100) and len(a[1])==2

# UCF-101

def test_mirrored_flow():
    "u is mirrored and turned, v is mirrored, and twice is nothing"
    u = PILFlowU(Image.fromarray(np.random.default_rng(0).integers(0, 256, (6,9), dtype='uint8')))
    assert np.array_equal(np.array(FlipItem(1.)(u, split_idx=0)), 255-np.array(u)[:,::-1])
    assert np.array_equal(np.array(u.flip_lr().flip_lr()), np.array(u)) and type(u.flip_lr()) is PILFlowU

@of('ucf101')
def test_frames_and_flow_flip_together(mini):
    path,make = mini
    df = ucf101_items(path)
    bars = path/'bars'
    (bars/'u').mkdir(parents=True), (bars/'v').mkdir()
    lr = np.tile(np.linspace(0, 200, 64).astype('uint8'), (48,1))  # dark on the left
    for n in df.name: (d := path/'prepared/frames'/n).mkdir(parents=True); Image.fromarray(np.stack([lr]*3, -1)).save(d/'00001.jpg', quality=95)
    dls = make(size=32, bs=1, num_workers=0, batch_tfms=[])
    seen = set()
    for f,o,_ in dls.train.new(shuffle=False, n=None, drop_last=False):
        left_is_dark = bool((f[0,0,:,:,:8].mean()<f[0,0,:,:,-8:].mean()))
        u_rest,v_rest = (o[0,c,:,:,:4].mean() < o[0,c,:,:,-4:].mean() for c in (0,1))  # rest (128) on the left?
        seen.add((left_is_dark, bool(u_rest), bool(v_rest), bool(o[0,0].min()<.3)))
    with pytest.raises(TypeError, match='would turn it and not what it points at'): make(size=32, bs=2, num_workers=0, batch_tfms=Flip()).one_batch()
    assert seen=={(True, True, True, False), (False, True, False, True)}  # 255-u rises too when it is mirrored: from 37 to 127

@of('ucf101')
def test_ucf_lists(mini):
    path,make = mini
    df = ucf101_items(path)
    assert df.attrs['vocab']==['Hammering','HammerThrow','HandstandPushups']!=sorted(df.attrs['vocab'])
    assert set(df.label[df.name.str.contains('HandStand')])=={'HandstandPushups'} and len(leaks(df, 'group'))==0
    assert df.flow[0]==(f'u/{df.name[0]}', f'v/{df.name[0]}') and df.frames[0].startswith('UCF-101/')
    lists = path/'ucfTrainTestlist'
    write(lists/'trainlist02.txt', ['Hammering/v_Hammering_g02_c01.avi 2']); write(lists/'testlist02.txt', [])
    with pytest.raises(ValueError, match='which is HammerThrow in classInd.txt and not Hammering'): ucf101_items(path, split=2)
    write(lists/'trainlist02.txt', ['v_Hammering_g02_c01.avi 1'])
    with pytest.raises(ValueError, match='expected Class/v_Class'): ucf101_items(path, split=2)
    with pytest.raises(ValueError, match='splits 1, 2 and 3'): ucf101_items(path, split=4)
    (path/f'u/{df.name[0]}/frame000012.jpg').unlink()
    with pytest.raises(ItemError, match='has 11 pictures and .* has 12'): [b for b in make(size=32, bs=4, num_workers=0).train]

@of('ucf101')
def test_ucf_with_sound(mini):
    "Clips without sound are no missing clips: they and their class are left out, named and counted, by a look into the videos or by a report; a damaged one stays, for the loader to name"
    path,make = mini
    for c,n in ucf_clips:
        if c=='HammerThrow' or n=='v_Hammering_g02_c01': write_video(path/f'UCF-101/{c}/{n}.avi', [np.zeros((32,32,3), 'uint8')]*6, 6)
    (path/'UCF-101/HammerThrow/v_HammerThrow_g02_c02.avi').unlink()  # gone, of a class that has no sound
    blocks = dict(audio=small['audio'], frames=small['frames'])
    for looked in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter('error', MissingMedia)
            dls = make(blocks=blocks, size=32, bs=2, num_workers=0)
        assert list(dls.vocab)==['Hammering','HandstandPushups'] and len(dls.table)==15 and dls.parts==['train','valid','test']
        assert len(dls.table.attrs['left_out'])==9 and 'v_Hammering_g02_c01' in dls.table.attrs['left_out'] and 'the 15 of 24 clips with sound, of 2 classes' in dls.protocol
        for dl in dls.loaders: [b for b in dl]
        if not looked: prepare(path, 'ucf-101', jobs=1, progress=False); assert not dls.table.audio.str.startswith('prepared').any()
    assert dls.table.audio.str.startswith('prepared/audio/').all()
    with pytest.warns(MissingMedia, match='1 of 24'): assert len(make(blocks=dict(frames=small['frames']), num_workers=0, bs=2).vocab)==3  # of frames alone nothing is left out
    shutil.rmtree(path/'prepared')
    fn = path/'UCF-101/Hammering/v_Hammering_g03_c01.avi'
    fn.write_bytes(fn.read_bytes()[:100])
    assert 'v_Hammering_g03_c01' in set(ucf101_items(path, need=('audio','frames')).name)

# A folder of clips

@of('clips')
def test_clip_folder(mini):
    path,_ = mini
    (path/'dog/._0_0.mp4').write_bytes(b'resource')
    df = clip_folder_items(path, by=lambda o: o.split('/')[1][0], valid_pct=.25, test_pct=.25)
    assert len(df)==12 and df.name.tolist()==sorted(df.name) and len(leaks(df, 'identity'))==0 and df.attrs['vocab']==['cat','dog'] and set(df.split)=={'train','valid','test'}
    (d := path/f'prepared/frames/{df.name[0]}').mkdir(parents=True)
    Image.new('RGB', (8,8)).save(d/'00001.jpg')
    assert clip_folder_items(path).frames[0]==f'prepared/frames/{df.name[0]}'  # in the folder of its class
    for d,n in ('train',8),('val',2),('test',2): (path/d).mkdir()
    for i,o in enumerate(sorted(path.glob('[cd]*/[0-9]*'))):
        (fn := path/('val' if i<2 else 'test' if i>9 else 'train')/o.relative_to(path)).parent.mkdir(exist_ok=True)
        shutil.move(o, fn)
    df = clip_folder_items(path)
    assert df.split.value_counts().to_dict()==dict(train=8, valid=2, test=2) and 'folders of parts' in df.attrs['protocol']

# The pieces

def test_leaks():
    df = pd.DataFrame(dict(who=list('aabbcc'), split=['test','train','train','train','valid','test'], is_valid=[True,False,True,True,False,False]))
    n = leaks(df, 'who')
    assert list(n.columns)==['train','valid','test'] and n.index.tolist()==['a','c'] and n.loc['a'].tolist()==[1,0,1] and n.loc['c'].tolist()==[0,1,1]
    n = leaks(df, 'who', 'is_valid')  # fastai's column
    assert n.index.tolist()==['a'] and n.loc['a'].to_dict()=={False: 1, True: 1} and len(leaks(df[df.who!='a'], 'who', 'is_valid'))==0

def test_hold_out():
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(actor=np.repeat(np.arange(91), 80), label=rng.integers(0, 6, 7280)))
    for seed in range(5):
        held = hold_out(df, .1, 'actor', seed)
        n = pd.crosstab(held, df.label)
        assert not set(df.actor[held])&set(df.actor[~held]) and (n.loc[True]/n.sum()-.1).abs().max()<.02
    mixed = df.sample(frac=1, random_state=1)
    assert len({hold_out(df, .1, 'actor', seed).tobytes() for seed in range(5)})==5
    lone = pd.DataFrame(dict(video=range(400), label=[0]*360+[1]*40))  # a class of one video each: drawn blindly, it would have 1 to 8 of 40
    for seed in range(5): assert pd.crosstab(hold_out(lone, .1, 'video', seed), lone.label).loc[True].tolist()==[36,4]
    assert (pd.Series(held, df.index)[mixed.index]==hold_out(mixed, .1, 'actor', 4)).all()
    for pct in 0,1,1.5:
        with pytest.raises(ValueError, match='between 0 and 1'): hold_out(df, pct, 'actor')

def test_published_formulas():
    "Section by section what can be said of the published inputs without the data"
    for n,hop,frames in (66_150,353,188),(80_000,128,626): assert 1+n//hop==frames
    silence = {k: block().type_tfms[0](np.zeros(16_000*12, 'float32'), split_idx=1) for k,block in audio_presets.items()}
    for k,block in audio_presets.items():
        front = block().batch_tfms[0]
        x = front(silence[k][None])
        if isinstance(front, ToSpec): assert torch.allclose(x.as_subclass(torch.Tensor), torch.tensor(-16.118096))
        if isinstance(front, ToFilterBank): assert torch.allclose(x[0,0,998:].as_subclass(torch.Tensor), torch.tensor(.438012), atol=1e-6) and x[0,0,997,0]<0
        if isinstance(front, ToPowerSpec): assert x.abs().max()<1e-3  # not the standardised rounding errors of silence
    load = audio_presets['crema_d']().type_tfms[0]
    x = np.random.default_rng(0).uniform(-1, 1, 22_050).astype('float32')
    assert np.array_equal(load((x, 22_050))[0], np.tile(x, 3)) and np.array_equal(load((np.tile(x, 4), 22_050), split_idx=1)[0], np.tile(x, 3))
    loud = TensorAudio(torch.full((1,1,1000), 3.), sr=22_050)
    assert torch.equal(ToSpec(clip=True)(loud), ToSpec()(loud/3))

@pytest.mark.parametrize('n,sr', [(160_000,16_000), (48_000,22_050), (512,8000)])
def test_power_density_is_scipys(n, sr):
    x = np.random.default_rng(0).normal(.1, .1, (2,1,n)).astype('float32')
    want = np.log(spectrogram(x.astype('float64'), sr, nperseg=512, noverlap=353)[2]+1e-7)
    have = ToPowerSpec(standardize=False)(TensorAudio(torch.from_numpy(x), sr=sr))
    assert have.shape==(2,1,257,1+(n-512)//159) and np.abs(have.numpy()-want).max()<2e-3
    each = ToPowerSpec()(TensorAudio(torch.from_numpy(x), sr=sr)).numpy()
    assert np.abs(each-(want-want.mean((-2,-1), keepdims=True))/want.std((-2,-1), keepdims=True)).max()<5e-3

def test_published_choice_of_frames(tmp_path):
    assert [segment_frames(n, False) for n in (10,6,30)]==[[1,4,7], [1,1,1], [5,15,25]]
    for n,want in (10,[{1,2,3},{4,5,6},{7,8,9}]),(30,[set(range(1,10)),{9},{9}]),(6,[{1}]*3): assert [set(o) for o in zip(*[segment_frames(n, True) for _ in range(400)])]==want
    for i in range(10): Image.new('L', (8,8), i+1).save(tmp_path/f'frame_{i+1:05}.png')
    assert [np.array(o).max() for o in LoadSegments()(tmp_path, split_idx=1)]==[1,4,7]
    assert [np.array(o).max() for o in LoadSegments()(tmp_path, split_idx=2)]==[1,4,7]  # the test part too

@of('ave')
def test_whole_picture_in_validation(mini):
    "Squeezed to the square, not cropped; the same in the test part"
    dls = mini[1](blocks=dict(frames=partial(FramesBlock, 1)), size=24, bs=1, num_workers=0, batch_tfms=[])
    for dl in dls.valid,dls.test:
        x = dl.dataset[0][0][0]
        assert np.abs(np.array(x.resize((24,24), Image.Resampling.BILINEAR)).astype(int).transpose(2,0,1)-(255*dl.one_batch()[0][0,:,0]).round().cpu().numpy()).max()<=1
