"Give setuptools what settings.ini holds; everything else is in pyproject.toml"
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

cfg = ConfigParser(interpolation=None)
cfg.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
s = cfg['DEFAULT']

def lines(key): return [o.strip() for o in s[key].splitlines() if o.strip()]

statuses = {'1':'Planning', '2':'Pre-Alpha', '3':'Alpha', '4':'Beta', '5':'Production/Stable', '6':'Mature', '7':'Inactive'}
extra = '_requirements'

setup(
    install_requires=lines('requirements'),
    extras_require={k.removesuffix(extra): lines(k) for k in s if k.endswith(extra)},
    keywords=s['keywords'].split(),
    classifiers=[f"Development Status :: {s['status']} - {statuses[s['status']]}",
        f"Intended Audience :: {s['audience']}", 'Programming Language :: Python :: 3 :: Only'],
)
