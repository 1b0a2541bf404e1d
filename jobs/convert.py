"""`fastbert convert` as a script."""

from jobs.options import command

main = command("convert")

if __name__ == "__main__":
    main()
