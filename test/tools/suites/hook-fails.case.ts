import { beforeAll, test } from "vitest";

beforeAll(() => {
  throw new Error("no device");
});
test("needs the device", () => undefined);
