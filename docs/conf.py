"How Sphinx renders the notebooks that docs/make.py wrote"
import re
from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from nbdev.config import get_config
from sphinx.util.logging import getLogger

cfg = get_config()
project, author, copyright, version = cfg.title, cfg.author, cfg.author, cfg.version
html_title = project
html_baseurl = cfg.doc_url
extensions = ['myst_nb', 'sphinx_copybutton']
nb_execution_mode = 'off'
nb_render_markdown_format = 'myst'  # tables in outputs, too
myst_enable_extensions = ['alert', 'amsmath', 'attrs_inline', 'colon_fence', 'dollarmath']
myst_heading_anchors = 4
myst_heading_slug_func = 'github'
suppress_warnings = ['myst.header']  # nbdev puts its `show_doc` headings (level 3) right under the title
html_theme = 'furo'
html_theme_options = dict(footer_icons=[dict(name='GitHub', url=cfg.git_url, html='GitHub')])
pygments_dark_style = 'one-dark'
html_static_path = ['_static']
html_css_files = ['custom.css']
html_copy_source = html_show_sourcelink = False
html_math_renderer = 'mathml'  # no MathJax: nothing is fetched when the page is read

def mathml(node, **kwargs):
    text = re.sub(r'\\[bB]ig+[lr]?(?![a-zA-Z])', '', node.astext()).replace(r'\dots', r'\ldots')  # docutils does not know them
    try: return tex2mathml(text, **kwargs)
    except MathError as e:
        getLogger(__name__).warning('%s in %s', e, node.astext(), location=node)
        return ''

def inline_math(self, node):
    self.body.append(mathml(node))
    raise nodes.SkipNode

def block_math(self, node):
    self.body.append(f'<div class="math">{mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode

def setup(app): app.add_html_math_renderer('mathml', (inline_math, None), (block_math, None))
