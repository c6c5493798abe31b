// The choice of models.
import { call } from "./api.js";
import { make } from "./dom.js";

let answer = null;

/** {models, default} of the service, asked once. */
export async function models() {
  answer ??= await call("/v1/models");
  return answer;
}

export const address = (model) => (model.version ? `${model.name}@${model.version}` : model.name);

/** "lstm@2" -> "lstm", where no other of the names is so. */
export function short(id, ids) {
  const name = id.split("@")[0];
  return ids.filter((other) => other.split("@")[0] === name).length === 1 ? name : id;
}

/** Fill `place` with one box a model; gives a function that tells the chosen ones. */
export async function choices(place) {
  const { models: found, default: usual } = await models();
  const boxes = found.map((model) => {
    const value = address(model);
    const box = make("input", { type: "checkbox", name: "model", value, checked: found.length === 1 || model.name === usual || value === usual });
    const names = model.labels.slice(0, 4).join(", ") + (model.labels.length > 4 ? ` and ${model.labels.length - 4} more` : "");
    place.append(make("label", { class: "choice", title: model.labels.join(", ") }, box, make("span", {}, make("strong", {}, model.name), make("span", { class: "soft" }, `${names}`))));
    return box;
  });
  place.firstElementChild?.matches("p") && place.firstElementChild.remove();
  return () => boxes.filter((box) => box.checked).map((box) => box.value);
}
