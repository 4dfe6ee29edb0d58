"Spoken digits with MNIST: fetched from an archive, checked by content, paired once"
import hashlib, io, tarfile
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from fastai.data.external import URLs
from PIL import Image
from mmbalance.data import av_digits
from mmbalance.data.av_digits import real_digits

copy = Path(__file__).parents[2]/'shared/data'  # a local copy of both data sets, where there is one
needs_copy = pytest.mark.skipif(not (copy/'fsdd.tgz').is_file(), reason='needs a local copy of the spoken digits and MNIST')

def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))

def wav(i):
    buf = io.BytesIO()
    sf.write(buf, np.sin(np.arange(800)*(i+1)/10), 8000, format='WAV', subtype='PCM_16')
    return buf.getvalue()

def png():
    buf = io.BytesIO()
    Image.new('L', (28,28)).save(buf, 'PNG')
    return buf.getvalue()

@pytest.fixture
def archives(tmp_path, monkeypatch):
    "Two small archives in the published layouts: two speakers, six takes of each digit"
    names = [f'{d}_{s}_{i}.wav' for d in range(10) for s in ('anna','ben') for i in range(6)]
    wavs = {n: wav(i) for i,n in enumerate(names)}
    with tarfile.open(tmp_path/'fsdd.tgz', 'w:gz') as t:
        for n,o in wavs.items(): add(t, f'free-spoken-digit-dataset-master/recordings/{n}', o)
    with tarfile.open(tmp_path/'mnist_png.tgz', 'w:gz') as t:
        for part in 'training','testing':
            for d in range(10):
                for i in range(11): add(t, f'mnist_png/{part}/{d}/{i}.png', png())
    digest = hashlib.sha256(b''.join(n.encode()+b'\0'+wavs[n] for n in sorted(wavs) if '_anna_' in n)).hexdigest()[:16]
    monkeypatch.setattr(av_digits, 'fsdd_digests', dict(anna=digest))
    monkeypatch.setattr(av_digits, 'fastai_path', lambda key: tmp_path/'home'/key)
    return tmp_path

def test_from_public_addresses(archives, monkeypatch):
    "The downloading code itself, with addresses that lead to local archives"
    monkeypatch.delenv('MMBALANCE_DATA', raising=False)
    monkeypatch.setattr(av_digits, 'fsdd_url', (archives/'fsdd.tgz').as_uri())
    monkeypatch.setattr(URLs, 'MNIST', (archives/'mnist_png.tgz').as_uri())
    path,df = real_digits(verbose=False)
    assert len(df)==120 and df.is_valid.sum()==100  # takes 0 to 4
    assert all((path/o).is_file() for o in [*df.audio, *df.image])

@pytest.mark.parametrize('address', [False, True])
def test_from_a_copy(archives, monkeypatch, address, capsys):
    monkeypatch.setenv('MMBALANCE_DATA', archives.as_uri() if address else str(archives))
    path,df = real_digits()
    assert '120 recordings (anna 60, ben 60); 110 training pictures (11 to 11 a digit)' in capsys.readouterr().out
    assert df.image.is_unique and (df.image.map(lambda o: int(Path(o).parts[-2]))==df.label).all()
    assert (df.image.map(lambda o: Path(o).parts[-3])==df.is_valid.map({True:'testing', False:'training'})).all()

def test_other_speakers_are_allowed_but_known_ones_must_be_the_published(archives, monkeypatch):
    monkeypatch.setenv('MMBALANCE_DATA', str(archives))
    real_digits(verbose=False)
    monkeypatch.setattr(av_digits, 'fsdd_digests', dict(anna='0'*16))
    with pytest.raises(ValueError, match='recordings of anna .* are not the 500 published ones'): real_digits(verbose=False)

def test_splits_and_seed(archives, monkeypatch):
    monkeypatch.setenv('MMBALANCE_DATA', str(archives))
    path,df = real_digits(verbose=False)
    assert set(df[df.is_valid]['take'])==set(range(5))
    with pytest.raises(ValueError, match='There is no speaker .carl.; take one of anna, ben'): real_digits('speaker', 'carl', verbose=False)
    _,by_speaker = real_digits('speaker', verbose=False)
    assert set(by_speaker[by_speaker.is_valid].speaker)=={'ben'} and set(by_speaker[~by_speaker.is_valid].speaker)=={'anna'}
    pd.testing.assert_frame_equal(df, real_digits(verbose=False)[1])
    assert not df.image.equals(real_digits(seed=1, verbose=False)[1].image)
    with pytest.raises(ValueError, match="`split` is 'random'"): real_digits('random', verbose=False)

@needs_copy
def test_the_real_data(monkeypatch):
    monkeypatch.setenv('MMBALANCE_DATA', str(copy))
    path,df = real_digits(verbose=False)
    assert set(av_digits.fsdd_digests)<=set(df.speaker)
    n = df.speaker.nunique()
    assert (len(df), df.is_valid.sum())==(500*n, 50*n)
    assert df.image.is_unique and (df.groupby('label').size()==50*n).all()
