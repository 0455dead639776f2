import { edgeseal, succeeded } from "../operator.ts";
import { nothingToDo } from "../refresh.ts";
import { nodeName } from "../site.ts";
import { holds, type DemoStep } from "../step.ts";
import { said } from "../../pulumi.ts";

/** As few as give a figure: the emulated processor generates a token in seconds. */
const few = ["--rounds", "1", "--prompt-tokens", "4", "--tokens", "2", "--minutes", "30"] as const;

export const cost: DemoStep = {
  title: "What protection costs is measured on the node itself",
  proves:
    "edgeseal bench inference runs the same server with one layer less each time, the encrypted volume first, down to a plain process, labels what is emulated, and leaves the service as it was",
  async run(context) {
    const measured = await edgeseal(
      context,
      ...["bench", "inference", nodeName, "--site", "stacks/demo.yaml", "--yes"],
      ...few,
    );
    succeeded(context, "every layer is measured", measured);
    holds(
      context,
      said(measured).includes("emulated, not transferable"),
      "the figures say that they are an emulator's",
      said(measured),
    );
    await nothingToDo(context);
  },
};
