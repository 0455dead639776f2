import { uncovered } from "./control.ts";

/** Point 7: prompts sanitized; raw prompts never stored; differential privacy for any on-device training. */
export const promptControls = [
  uncovered({ id: "7.prompts-sanitized", point: 7, title: "Prompts are sanitized before inference" }),
  uncovered({ id: "7.no-raw-prompts", point: 7, title: "Raw prompts are never stored" }),
  uncovered({
    id: "7.differential-privacy",
    point: 7,
    title: "On-device training is differentially private, or there is none",
  }),
] as const;
