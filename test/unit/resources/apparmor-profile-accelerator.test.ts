import { expect, test } from "vitest";
import { inferenceBlocksOf } from "../../../components/inference-service.ts";
import { appArmorDocument } from "../../../provider/resources/apparmor-profile-rules.ts";
import { inferenceContainerProblems } from "../../../provider/resources/inference-container-inputs.ts";
import { variants, type Variant } from "../../../provider/resources/server-variants.ts";
import { loosened } from "./inference-container-example.ts";

const blocksOf = (variant: Variant, devices: readonly string[]) =>
  inferenceBlocksOf(
    {
      image: `registry.example/edge/llama@sha256:${"a".repeat(64)}`,
      model: { digest: `sha256:${"b".repeat(64)}`, statement: "", keys: {} },
      variant,
      confinement: { devices },
      memoryMaxMiB: 1024,
      nodeMemoryMiB: 4096,
    },
    "/srv/models",
  ).appArmorProfile;

const rulesFor = (variant: Variant, devices: readonly string[]): string => {
  const { name = "inference", ...profile } = blocksOf(variant, devices);
  return appArmorDocument({ ...profile, name, variant });
};

test.each(["/dev/hailo0", "/dev/hailo1", "/dev/h1x-0"])(
  "the accelerator %s that a container takes is the one device that its profile lets it use",
  (device) => {
    expect(inferenceContainerProblems({ ...loosened({ devices: [device] }), variant: "hailo" })).toEqual([]);
    const document = rulesFor("hailo", [device]);
    expect(document.match(/\/dev\/(hailo|h1x)\S* rw,/g)).toEqual([`${device} rw,`]);
    expect(document).toContain(`/hailo_chardev/${device.slice("/dev/".length)}/** r,`);
  },
);

test("no other variant gets one, whatever devices its container is given", () => {
  for (const variant of variants.filter((each) => each !== "hailo"))
    expect(rulesFor(variant, ["/dev/hailo1"])).not.toContain("hailo");
});
