"""The style of an audit's page: on a screen, on a phone, and in print."""

STYLE = """
:root { color-scheme: light; --line: #d8dce3; --soft: #f4f6f9; --ink: #1d2430; --dim: #5b6472; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
p { margin: .4rem 0; } .dim { color: var(--dim); font-size: .85rem; }
.notes { background: #fff7e0; border: 1px solid #e8d391; border-radius: .5rem;
  padding: .5rem 1rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
  gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .9rem; min-width: 0; }
.card dl { margin: 0; } .card dt { font-weight: 600; margin-top: .6rem; }
.card dd { margin: 0; font-size: .88rem; color: var(--dim); overflow-wrap: anywhere; }
.mark { display: inline-block; border-radius: 1rem; padding: 0 .6rem; font-size: .85rem;
  font-weight: 600; }
.yes { background: #d9f2e1; color: #12562c; } .no { background: #fbdcdc; color: #83161a; }
.inconclusive { background: #fdeecb; color: #6b4a00; }
.shown { background: #e6e9ee; color: #424a57; }
.measures { display: grid; gap: 0 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.measures > div { min-width: 0; }
table { width: 100%; border-collapse: collapse; table-layout: fixed; font-size: .88rem; }
caption { text-align: left; font-weight: 600; padding: .9rem 0 .1rem; }
caption span { font-weight: 400; color: var(--dim); display: block; font-size: .83rem; }
th, td { text-align: left; padding: .15rem .35rem; border-bottom: 1px solid var(--soft);
  vertical-align: middle; font-weight: 400; overflow-wrap: anywhere; }
td.number { font-variant-numeric: tabular-nums; }
th { width: 26%; } td.strip { width: 36%; }
td.strip svg { display: block; width: 100%; height: auto; }
table.clients th, table.seeds th { width: auto; }
table.seeds th:first-child { width: 30%; } table.seeds .mark { padding: 0 .4rem; }
tr.reference { color: var(--dim); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr));
  gap: 1rem; }
.plots svg { width: 100%; height: auto; display: block; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .75rem;
  border-radius: .5rem; font-size: .78rem; }
@media (max-width: 32rem) { th { width: 27%; } td.strip { width: 29%; }
  table { font-size: .8rem; } }
@media print { .card, table, .plots svg { break-inside: avoid; } }
"""
