"""Build README.md and the documentation site from the notebooks: `python docs/make.py`

nbdev runs the `show_doc` cells and resolves the backtick links, as `nbdev-docs` does before it calls Quarto.
This script turns the result into ordinary MyST notebooks, which Sphinx renders, and into Markdown."""
import ast, json, os, posixpath, re, shutil, sys
from pathlib import Path

import nbformat, yaml
from nbconvert import MarkdownExporter
from nbdev import processors
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, nbdev_export
from nbdev.serve import proc_nbs
from sphinx.cmd.build import build_main
from traitlets.config import Config

os.chdir(Path(__file__).parents[1])
cfg = get_config()
out, src = cfg.doc_path, cfg.doc_path.parent/'src'
site = f'{cfg.doc_host}{cfg.doc_baseurl.rstrip("/")}/'
colab = f'https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/{cfg.nbs_path.name}/'

re_directive = re.compile(r'#\|\s*([\w-]+)\s*:?\s*(.*?)\s*$')
re_callout = re.compile(r'^:::\s*\{\.callout-(\w+)[^}]*\}\n(.*?)\n:::[ \t]*$', re.M|re.S)
re_source = re.compile(r'\[source\]\(([^)\s]+)\)\{[^}]*\}\n+')
re_symbol = re.compile(r'\]\(' + re.escape(site) + r'([\w./-]+)\.html(?:#([\w.]+))?\)')
re_noise = re.compile(r'\b(?:__main__|collections\.abc|pathlib)\.|:NoneType(?==)|(?<=\| )NoneType(?= \|)')
re_th = re.compile(r'(?<=<th>)\w+(?=</th>)')
re_page = re.compile(r'\]\((?!\w+:)([\w./-]+)\.ipynb(#[^)]*)?\)')

def unnumber(path): return re.sub(r'(^|/)\d+[a-zA-Z0-9]*_(?=[^/]*$)', r'\1', str(path))

# Cells

def alert(m): return f'> [!{m[1].upper()}]\n' + '\n'.join(f'> {o}'.rstrip() for o in m[2].splitlines())

def show_doc(text):
    "A heading that nbdev's links reach, the link to the source, the signature and the docstring"
    text = text.removeprefix('---').lstrip()
    source = re_source.match(text)
    level, name, body = re.match(r'(#+) (\S+)\n+(.*)', re_source.sub('', text, count=1), re.S).groups()
    body = re_noise.sub('', body)  # where the kernel found a type, and a type guessed from a default of None
    link = '<a class="source" href="' + source[1].removesuffix('#LNone') + '">source</a>\n\n' if source else ''
    anchor = f'<a id="{name.lower()}"></a>\n\n' if '.' in name else ''  # Sphinx itself gives other headings this id
    return anchor + f'{level} {name.replace("_", chr(92)+"_")}\n\n' + link + body

def markdown(cell, text): return dict(cell_type='markdown', id=cell['id'], metadata={}, source=text)

def convert(cell, path):
    "A cell that nbdev processed as a plain cell, or None to leave it out"
    text = cell['source']
    if cell['cell_type']=='raw':
        fm = yaml.safe_load(text.strip().strip('-'))
        link = '' if str(path)==cfg.readme_nb else f'[Open in Colab]({colab}{path})'
        return markdown(cell, '\n\n'.join(o for o in (f'# {fm["title"]}', fm.get('description'), link) if o))
    if cell['cell_type']=='markdown': return None if text.startswith('<!-- WARNING') else markdown(cell, re_callout.sub(alert, text))
    lines, opts = text.splitlines(), {}
    while lines and (m := re_directive.match(lines[0])): opts[m[1]] = m[2]; lines.pop(0)
    if opts.get('include')=='false': return
    datas = [o['data'] for o in cell['outputs'] if 'data' in o]
    if (opts.get('echo'), opts.get('output'))==('false', 'asis'):
        mds = [d['text/markdown'] for d in datas if d.get('text/markdown')]
        return markdown(cell, '\n\n'.join(show_doc(o) if text.rpartition('\n')[2].startswith('show_doc') else o for o in mds))
    for d in datas:
        if 'text/html' in d: d.pop('text/markdown', None)  # fastprogress: the HTML again, in a fence
    tags = dict(remove_input=opts.get('echo')=='false', remove_output=opts.get('output')=='false', hide_input='code-fold' in opts)
    return dict(cell_type='code', id=cell['id'], metadata=dict(tags=[k.replace('_', '-') for k,v in tags.items() if v]),
        source='\n'.join(lines), outputs=cell['outputs'], execution_count=None)

# Notebooks

nbdev_runs = processors._do_eval
def runs(cell):
    "Which cells run when the site is built: exported ones, `show_doc`, and those that hold nothing but imports; not every one with an import in it"
    if not nbdev_runs(cell): return False
    return bool(cell.directives_.keys() & {'export', 'exports', 'exporti', 'exec_doc'} or processors._show_docs(cell.parsed_())
        or all(isinstance(o, (ast.Import, ast.ImportFrom)) for o in cell.parsed_()))
processors._do_eval = runs

def process():
    "The notebooks as plain notebooks, by path; what lies beside them is copied to `src`"
    shutil.rmtree(src, ignore_errors=True)
    proc, nbs = proc_nbs(force=True, n_workers=0), {}
    for f in sorted(o for o in proc.rglob('*') if o.is_file()):
        path = f.relative_to(proc)
        if f.suffix=='.ipynb':
            nb = nbformat.read(f, as_version=4)
            nb['cells'] = [o for c in nb['cells'] if (o := convert(c, path))]
            nb['metadata']['language_info'] = dict(name='python', pygments_lexer='ipython3')
            nbs[path] = nb
        else:
            (src/path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(f, src/path)
    return nbs

def relink(nb, symbol, page):
    "A copy of `nb` with `symbol` applied to links to this site's symbols and `page` to links to notebooks"
    def f(c): return c if c['cell_type']!='markdown' else c|dict(source=re_symbol.sub(symbol, re_page.sub(page, c['source'])))
    return nb|dict(cells=[f(c) for c in nb['cells']])

parts = {'tutorials':'Tutorials', 'explanations':'Explanations', 'results':'Methods and results', '':'Library', 'data':'Data', 'datasets':'Data sets', 'layers':'Layers', 'callback':'Callbacks'}  # folders, in reading order

def contents(paths):
    "Sphinx's table of contents: a part for each folder; pages in the order of their numbers"
    pages = {k: [unnumber(p.with_suffix('')) for p in sorted(paths) if p.parent.as_posix()==(k or '.')] for k in parts}
    if lost := {p.parent.as_posix() for p in paths} - {k or '.' for k in parts}: sys.exit(f'No part of the site for {", ".join(lost)}: add it to `parts`')
    return '\n\n'.join('\n'.join(['```{toctree}', ':hidden:', f':caption: {parts[k]}', '', *v, '```']) for k,v in pages.items() if v)

def write_myst(nbs):
    "Write to `src` what Sphinx reads"
    entries = {(unnumber(p.with_suffix('')), m[1].replace('\\', '').lower())
        for p,nb in nbs.items() for c in nb['cells'] for m in re.finditer(r'^#+ (\S+)$', c['source'], re.M)}
    for path,nb in nbs.items():
        def symbol(m):
            name = m[2]
            while name and (m[1], name) not in entries: name = name.rpartition('.')[0]  # no entry of its own: its class's
            return f']({"../"*(len(path.parts)-1)}{m[1]}.ipynb' + (f'#{name.replace(".", "")})' if name else ')')
        nb = relink(nb, symbol, lambda m: f']({unnumber(m[1])}.ipynb{m[2] or ""})')
        if str(path)==cfg.readme_nb: nb['cells'].append(markdown(dict(id='contents'), contents(set(nbs)-{path})))
        dest = src/unnumber(path)
        dest.parent.mkdir(parents=True, exist_ok=True)
        text = re_th.sub(lambda m: m[0].replace('_', '_<wbr>'), json.dumps(nb, ensure_ascii=False))  # so that a wide table of training fits
        dest.write_text(text, encoding='utf-8')

def plain(nb, path, files='files'):
    "A notebook as Markdown with links in full, and its pictures by name"
    def page(m): return f']({site}{unnumber(posixpath.normpath(posixpath.join(path.parent.as_posix(), m[1])))}.html{m[2] or ""})'
    nb = nbformat.from_dict(relink(nb, lambda m: m[0], page))
    for c in nb.cells:
        if c.cell_type=='markdown': c.source = re.sub(r'<a id=[^>]*></a>\n\n|<a class="source".*?</a>\n\n', '', c.source)
        for o in c.get('outputs', []):
            if 'image/png' in o.get('data', {}): o.data.pop('text/html', None)  # where players do not work, the picture does
            if 'text/html' in o.get('data', {}): o.data['text/html'] = re.sub(r'\s*<style.*?</style>', '', o.data['text/html'], flags=re.S)
    conf = Config(TagRemovePreprocessor=dict(enabled=True, remove_input_tags={'remove-input'}, remove_all_outputs_tags={'remove-output'}))
    body, res = MarkdownExporter(config=conf).from_notebook_node(nb, dict(output_files_dir=files, unique_key='out'))
    return re.sub(r'\n{3,}', '\n\n', re.sub(r'[ \t]+$', '', body, flags=re.M)).strip()+'\n', res['outputs']

def write_readme(nbs):
    path = Path(cfg.readme_nb)
    body, pics = plain(nbs[path], path, files='index_files')
    shutil.rmtree('index_files', ignore_errors=True)
    for k,v in pics.items(): (p := Path(k)).parent.mkdir(exist_ok=True); p.write_bytes(v)
    body = re.sub(r'\]\((?!\w+:|#|index_files/)', f']({cfg.nbs_path.name}/', body)
    Path('README.md').write_text(body, encoding='utf-8')

def write_pages_md(nbs):
    "Each page as Markdown too: the address that nbdev puts in a module's docstring"
    for path,nb in nbs.items():
        dest = out/unnumber(path.with_suffix('.html.md'))
        body, pics = plain(nb, path, files=dest.name.removesuffix('.html.md')+'_files')
        dest.write_text(body, encoding='utf-8')
        for k,v in pics.items(): (p := dest.parent/k).parent.mkdir(exist_ok=True); p.write_bytes(v)
    if (src/'llms.txt').exists(): shutil.copy(src/'llms.txt', out)

if __name__=='__main__':
    nbdev_export()
    if cfg.lib_name not in NbdevLookup().entries: sys.exit(f'Links need {cfg.lib_name} to be installed: pip install -e .')
    nbs = process()
    write_readme(nbs)
    write_myst(nbs)
    shutil.rmtree(out, ignore_errors=True)
    rc = build_main(['-W', '--keep-going', '-q', '-E', '-c', 'docs', str(src), str(out)])
    if rc: sys.exit(rc)
    write_pages_md(nbs)
