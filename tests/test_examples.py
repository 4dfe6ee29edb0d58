"The examples run as printed"
import subprocess, sys
from pathlib import Path
from mmbalance.data.av_digits import synth_digits

root = Path(__file__).parents[1]

def test_train_from_csv(tmp_path):
    path,df = synth_digits(tmp_path/'digits')
    df[:96].to_csv(path/'pairs.csv', index=False)
    out = subprocess.run([sys.executable, '-W', 'ignore', root/'examples/train_from_csv.py', path/'pairs.csv', '--sr', '8000', '--length', '.5',
        '--size', '32', '--arch', 'conv', '--epochs', '1'], check=True, capture_output=True, text=True).stdout
    assert 'audio_accuracy' in out and (path/'balanced.pkl').is_file()
