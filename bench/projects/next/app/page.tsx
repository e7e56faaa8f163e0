import { Counter } from "./counter";

export default function Page() {
  return (
    <>
      <h1>Bench</h1>
      <p>A static export of the app router.</p>
      <Counter />
    </>
  );
}
