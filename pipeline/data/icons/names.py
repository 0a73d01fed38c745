"""Names of clear icons that every style draws, the clearest first."""

CLEAR = tuple(
    """
    red-apple banana grapes strawberry watermelon pineapple cherries lemon carrot mushroom
    pizza hamburger doughnut cat-face pig-face frog penguin octopus butterfly turtle
    spouting-whale tropical-fish red-heart star sun-with-face crescent-moon cloud snowflake
    fire droplet evergreen-tree cactus tulip sunflower rose house automobile bus airplane
    rocket sailboat bell key umbrella wrapped-gift balloon soccer-ball basketball guitar
    crown pear peach tangerine melon green-apple tomato eggplant ear-of-corn hot-pepper
    avocado kiwi-fruit cucumber potato peanuts chestnut bread croissant pancakes
    cheese-wedge french-fries hot-dog taco burrito popcorn cookie birthday-cake shortcake
    chocolate-bar candy lollipop custard honey-pot ice-cream soft-ice-cream egg cooking
    bento-box sushi spaghetti beer-mug wine-glass cocktail-glass hot-beverage tropical-drink
    dog-face mouse-face rabbit-face fox bear panda koala tiger-face lion cow-face
    monkey-face chicken baby-chick bird eagle duck owl bat wolf boar horse-face unicorn
    honeybee bug snail lady-beetle spider scorpion crab squid shrimp fish dolphin shark
    whale crocodile snake dragon-face elephant rhinoceros camel rooster turkey
    four-leaf-clover maple-leaf cherry-blossom hibiscus blossom palm-tree deciduous-tree
    seedling herb rainbow high-voltage snowman glowing-star full-moon comet volcano mountain
    desert-island castle church hospital school factory tent ferris-wheel fountain taxi
    police-car ambulance fire-engine delivery-truck tractor motorcycle bicycle locomotive
    helicopter ship anchor fuel-pump stop-sign alarm-clock hourglass-done watch light-bulb
    candle flashlight books closed-book newspaper envelope package pencil scissors paperclip
    pushpin magnifying-glass-tilted-left locked hammer wrench gear bomb pill syringe
    """.split()
)
