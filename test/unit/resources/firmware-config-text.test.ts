import { describe, expect, test } from "vitest";
import { blockLines, readConfig, statusOf } from "../../../provider/resources/firmware-config-text.ts";

const pi5 = "Raspberry Pi 5 Model B Rev 1.0";
const status = (setting: string, text: string, model = pi5, more: Record<string, string> = {}): string =>
  statusOf(readConfig(new Map([["config.txt", text], ...Object.entries(more)]), model), setting);

const spi = "dtparam=spi=on";
const tpm = "dtoverlay=tpm-slb9670";

describe("which lines count on a Pi 5", () => {
  test.each([
    ["under no section", "", "in force"],
    ["under [all]", "[all]\n", "in force"],
    ["under [pi5]", "[pi5]\n", "in force"],
    ["under [PI5]", "[PI5]\n", "in force"],
    ["under [pi4]", "[pi4]\n", "missing"],
    ["under [cm5]", "[cm5]\n", "missing"],
    ["under [none]", "[none]\n", "missing"],
    ["under [tryboot]", "[tryboot]\n", "missing"],
    // Sections of one kind take each other's places, those of different kinds narrow down.
    ["under [pi4], then [pi5]", "[pi4]\n[pi5]\n", "in force"],
    ["under [none], then [pi5]", "[none]\n[pi5]\n", "missing"],
    ["under [none], then [all]", "[none]\n[all]\n", "in force"],
    ["under a display", "[EDID=VSC-TD2220]\n", "not certain: config.txt line 2 under [EDID=VSC-TD2220]"],
    ["under a pin and [pi5]", "[gpio4=1]\n[pi5]\n", "not certain: config.txt line 3 under [gpio4=1][pi5]"],
    ["under a pin and [pi4]", "[gpio4=1]\n[pi4]\n", "missing"],
    ["under a serial number", "[0x1234abcd]\n", "not certain: config.txt line 2 under [0x1234abcd]"],
    ["commented out", "#", "missing"],
    ["after white space", "  ", "in force"],
  ])("%s", (_, before, expected) => {
    expect(status("arm_boost=1", `${before}arm_boost=1\n`)).toBe(expected);
  });

  test("sections go by the model", () => {
    expect(status("x=1", "[cm5]\nx=1\n", "Raspberry Pi Compute Module 5 Rev 1.0")).toBe("in force");
    expect(status("x=1", "[pi5]\nx=1\n", "Raspberry Pi Compute Module 5 Rev 1.0")).toBe("in force");
    expect(status("x=1", "[pi500]\nx=1\n", "Raspberry Pi 500 Rev 1.0")).toBe("in force");
    expect(status("x=1", "[pi5]\nx=1\n", "Raspberry Pi 4 Model B Rev 1.4")).toBe("missing");
  });

  test("line ends of either kind, and a last line without one", () => {
    expect(status("a=1", "x=2\r\na=1\r\n")).toBe("in force");
    expect(status("a=1", "x=2\na=1")).toBe("in force");
  });

  test("what stands beyond 98 characters is not read", () => {
    expect(status("a=1", `a=1${" ".repeat(95)}x`)).toBe("in force");
    expect(status("a=11", `${" ".repeat(95)}a=11`)).toBe("overridden: config.txt line 1 has '1'");
  });
});

describe("which word is the last", () => {
  test.each([
    ["arm_boost=1", "arm_boost=0\narm_boost=1\n", "in force"],
    ["arm_boost=1", "arm_boost=1\narm_boost=0\n", "overridden: config.txt line 2 has '0'"],
    ["arm_boost=1", "arm_boost=1\n[pi4]\narm_boost=0\n", "in force"],
    // Enough to override, not enough to set.
    [
      "arm_boost=1",
      "arm_boost=1\n[gpio4=1]\narm_boost=0\n",
      "overridden: config.txt line 3 under [gpio4=1] has '0'",
    ],
    ["arm_boost=1", "arm_boost=1\n[gpio4=1]\narm_boost=1\n", "in force"],
    ["arm_boost=1", "", "missing"],
    [spi, "dtparam=spi=on\n", "in force"],
    [spi, "dtparam=spi\n", "in force"],
    [spi, "dtparam=i2c_arm=on,spi=yes\n", "in force"],
    [spi, "dtparam=spi=on\ndtparam=spi=off\n", "overridden: config.txt line 2 has 'spi=off'"],
    [spi, "dtparam=i2c_arm=on\n", "missing"],
    // After an overlay it may be taken for a parameter of that overlay.
    [spi, "dtoverlay=vc4-kms-v3d\ndtparam=spi=on\n", "not certain: config.txt line 2"],
    [spi, "dtoverlay=vc4-kms-v3d\ndtoverlay=\ndtparam=spi=on\n", "in force"],
    [spi, "[pi4]\ndtoverlay=vc4-fkms-v3d\n[all]\ndtparam=spi=on\n", "in force"],
    [spi, "[gpio4=1]\ndtoverlay=x\n[all]\ndtparam=spi=on\n", "not certain: config.txt line 4"],
    [spi, "dtparam=spi=on\ndtoverlay=x\ndtparam=spi=off\n", "overridden: config.txt line 3 has 'spi=off'"],
    [tpm, "dtoverlay=tpm-slb9670\ndtoverlay=vc4-kms-v3d\n", "in force"],
    [tpm, "dtoverlay=tpm-slb9670,cs=1\n", "missing"],
    ["dtoverlay=dwc2,dr_mode=host", "dtoverlay=dwc2:dr_mode=host\n", "in force"],
    ["gpio=4=op,dh", "gpio=4=op,dh\ngpio=5=ip\n", "in force"],
  ])("%s in %j: %s", (setting, text, expected) => {
    expect(status(setting, text)).toBe(expected);
  });
});

describe("includes", () => {
  test("count where they stand", () => {
    const more = { "extra.txt": "arm_boost=0\n" };
    expect(status("arm_boost=1", "arm_boost=1\ninclude extra.txt\n", pi5, more)).toBe(
      "overridden: extra.txt line 1 has '0'",
    );
    expect(status("arm_boost=1", "include extra.txt\narm_boost=1\n", pi5, more)).toBe("in force");
    expect(status("arm_boost=1", "arm_boost=1\n[pi4]\ninclude extra.txt\n", pi5, more)).toBe("in force");
    expect(status("arm_boost=0", "include missing.txt\n", pi5, more)).toBe("missing");
  });

  test("that include each other come to an end", () => {
    const more = { "a.txt": "include b.txt\nx=1\n", "b.txt": "include a.txt\n" };
    expect(status("x=1", "include a.txt\n", pi5, more)).toBe("in force");
  });
});

test("edgeseal's lines put the board's parameters before overlays, which would take them for theirs", () => {
  const block = blockLines([tpm, spi, "arm_boost=1"]);
  expect(block).toEqual(["[all]", "dtoverlay=", spi, tpm, "arm_boost=1"]);
  const whole = `[pi4]\ndtoverlay=x\n${block.join("\n")}\n`;
  for (const setting of [tpm, spi, "arm_boost=1"]) expect(status(setting, whole)).toBe("in force");
  expect(blockLines([tpm])).toEqual(["[all]", tpm]);
  expect(blockLines([])).toEqual([]);
});
