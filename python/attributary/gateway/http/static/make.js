// The view that generates a picture and asks about it.

import * as api from "./api.js";
import { answerOf } from "./show.js";

const at = (id) => document.getElementById(id);

// `page` has busy(), say(), pictures() and signed() of the page.
export function generating(page) {
  at("make-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const prompt = at("make-prompt").value.trim();
    const wish = { prompt, seed: Number(at("make-seed").value) || 0, steps: Number(at("make-steps").value) || 30 };
    page.busy(event.target, "make-status", async () => {
      const bar = at("make-progress");
      bar.value = 0;
      bar.hidden = false;
      page.say("make-status", "Generating …");
      try {
        const picture = await api.generate(wish, (done, steps) => { bar.value = done; bar.max = steps; });
        const shown = at("make-picture");
        URL.revokeObjectURL(shown.src);
        shown.src = URL.createObjectURL(picture);
        shown.alt = `Generated for: ${prompt}`;
        shown.hidden = false;
        page.say("make-status", "Generated. Asking where it comes from …");
        const answer = await api.attribute(picture, prompt, 10, page.signed());
        at("make-answer").replaceChildren(answerOf(answer, "", page.pictures(), [picture, prompt, 10]));
        page.say("make-status", answer.out_of_distribution ? "Generated; resembles nothing known." : `Generated, and answered: ${answer.items.length} sources.`);
      } finally {
        bar.hidden = true;
      }
    });
  });
}

export async function begin() {
  const facts = await api.generator();
  at("tab-make").hidden = false;
  at("make-model").textContent = `A small model of 64 pixels, weights ${facts.weights.slice(0, 12)}; the same prompt, seed and steps give the same picture.`;
}
