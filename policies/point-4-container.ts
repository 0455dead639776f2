import { uncovered } from "./control.ts";

/** Point 4: inference in a rootless container with a strict seccomp profile and an AppArmor profile, both in effect. */
export const containerControls = [
  uncovered({ id: "4.rootless-container", point: 4, title: "Inference runs in a rootless container" }),
  uncovered({
    id: "4.seccomp",
    point: 4,
    title: "A strict seccomp profile is in effect in the inference process",
  }),
  uncovered({
    id: "4.apparmor",
    point: 4,
    title: "An AppArmor profile is in effect in the inference process",
  }),
] as const;
