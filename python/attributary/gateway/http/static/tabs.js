// Tabs as the ARIA Authoring Practices have them: arrows move, the chosen one is the only one that Tab stops at.

export function tabs(list, chosen) {
  const all = () => [...list.querySelectorAll("[role=tab]")].filter((tab) => !tab.hidden);
  function choose(tab, focus) {
    for (const other of list.querySelectorAll("[role=tab]")) {
      const is = other === tab;
      other.setAttribute("aria-selected", String(is));
      other.tabIndex = is ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !is;
    }
    if (focus) tab.focus();
    chosen(tab.getAttribute("aria-controls"));
  }
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) choose(tab, false);
  });
  list.addEventListener("keydown", (event) => {
    const now = all();
    const at = now.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: now.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    choose(now[(to + now.length) % now.length], true);
  });
}
