// Sets the formulas of a page, which stand in it as \(...\) and \[...\], with the KaTeX that comes with the site.
document$.subscribe(() => {
  for (const element of document.querySelectorAll(".arithmatex")) {
    const source = element.textContent.trim();
    try {
      katex.render(source.slice(2, -2), element, { displayMode: source.startsWith("\\[") });
    } catch (error) {
      console.error(`formula ${source}: ${error.message}`);
    }
  }
});
